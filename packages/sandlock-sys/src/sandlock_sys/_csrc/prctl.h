#ifndef SANDLOCK_PRCTL_H
#define SANDLOCK_PRCTL_H

#include <stdint.h>

/* struct __user_cap_header_struct and two __user_cap_data_struct of linux/capability.h, version 3, 2.6.26 */
struct sl_capability_sets {
    uint64_t effective;
    uint64_t permitted;
    uint64_t inheritable;
};

long sl_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
long sl_prctl_buffer(int option, void *buffer);
long sl_capget(int pid, struct sl_capability_sets *sets);
long sl_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable);
long sl_personality(uint32_t persona);

#endif
