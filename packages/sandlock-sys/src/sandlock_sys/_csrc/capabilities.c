#include "capabilities.h"

#include <linux/capability.h>

#include "raw.h"

long sl_capabilities_set(uint64_t effective, uint64_t *before)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct data[2];
    long result = RAW(__NR_capget, &header, data);
    if (result < 0)
        return result;
    *before = data[0].effective | (uint64_t)data[1].effective << 32;
    data[0].effective = (uint32_t)effective;
    data[1].effective = (uint32_t)(effective >> 32);
    return RAW(__NR_capset, &header, data);
}
