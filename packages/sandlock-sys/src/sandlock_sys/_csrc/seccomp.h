#ifndef SANDLOCK_SECCOMP_H
#define SANDLOCK_SECCOMP_H

#include <stddef.h>
#include <stdint.h>

/* struct seccomp_notif_sizes of linux/seccomp.h, 5.0 */
struct sl_seccomp_notif_sizes {
    uint16_t notif;
    uint16_t response;
    uint16_t data;
};

long sl_seccomp_set_mode_filter(uint32_t flags, const void *program, size_t size);
long sl_seccomp_get_action_avail(uint32_t action);
long sl_seccomp_get_notif_sizes(struct sl_seccomp_notif_sizes *sizes);

#endif
