#include "seccomp.h"

#include <errno.h>

#include "raw.h"

/* Operations of seccomp(2), linux/seccomp.h */
#define SET_MODE_FILTER 1  /* 3.17 */
#define GET_ACTION_AVAIL 2 /* 4.14 */
#define GET_NOTIF_SIZES 3  /* 5.0 */

#define INSTRUCTION_SIZE 8   /* struct sock_filter, linux/filter.h */
#define MAX_INSTRUCTIONS 4096 /* BPF_MAXINSNS, linux/bpf_common.h */

/* struct sock_fprog of linux/filter.h */
struct program {
    uint16_t count;
    const void *instructions;
};

_Static_assert(sizeof(struct program) == 16, "struct sock_fprog");
_Static_assert(sizeof(struct sl_seccomp_notif_sizes) == 6, "struct seccomp_notif_sizes");

long sl_seccomp_set_mode_filter(uint32_t flags, const void *program, size_t size)
{
    if (size % INSTRUCTION_SIZE || size / INSTRUCTION_SIZE > MAX_INSTRUCTIONS)
        return -EINVAL; /* the 16-bit count must not wrap round to a shorter program */
    struct program filter = {(uint16_t)(size / INSTRUCTION_SIZE), program};
    return RAW(__NR_seccomp, SET_MODE_FILTER, flags, &filter);
}

long sl_seccomp_get_action_avail(uint32_t action)
{
    return RAW(__NR_seccomp, GET_ACTION_AVAIL, 0, &action);
}

long sl_seccomp_get_notif_sizes(struct sl_seccomp_notif_sizes *sizes)
{
    return RAW(__NR_seccomp, GET_NOTIF_SIZES, 0, sizes);
}
