#include "prctl.h"

#include "raw.h"

#define CAPABILITY_VERSION_3 0x20080522 /* _LINUX_CAPABILITY_VERSION_3, linux/capability.h, 2.6.26 */

struct capability_header {
    uint32_t version;
    int32_t pid;
};

/* One half of the 64 capabilities. */
struct capability_data {
    uint32_t effective;
    uint32_t permitted;
    uint32_t inheritable;
};

_Static_assert(sizeof(struct capability_header) == 8, "struct __user_cap_header_struct");
_Static_assert(sizeof(struct capability_data) == 12, "struct __user_cap_data_struct");
_Static_assert(sizeof(struct sl_capability_sets) == 24, "struct sl_capability_sets");

long sl_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    return RAW(__NR_prctl, option, a, b, c, d);
}

long sl_prctl_buffer(int option, void *buffer)
{
    return RAW(__NR_prctl, option, buffer);
}

static uint64_t join(uint32_t low, uint32_t high)
{
    return low | (uint64_t)high << 32;
}

long sl_capget(int pid, struct sl_capability_sets *sets)
{
    struct capability_header header = {CAPABILITY_VERSION_3, pid};
    struct capability_data data[2] = {0};
    long result = RAW(__NR_capget, &header, data);
    if (result == 0) {
        sets->effective = join(data[0].effective, data[1].effective);
        sets->permitted = join(data[0].permitted, data[1].permitted);
        sets->inheritable = join(data[0].inheritable, data[1].inheritable);
    }
    return result;
}

long sl_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct capability_header header = {CAPABILITY_VERSION_3, 0};
    struct capability_data data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
    };
    return RAW(__NR_capset, &header, data);
}

long sl_personality(uint32_t persona)
{
    return RAW(__NR_personality, persona);
}
