#ifndef SANDLOCK_NOTIF_H
#define SANDLOCK_NOTIF_H

#include <stdint.h>

#define SL_NOTIF_REQUEST_SIZE 80

struct sl_notif_request { /* struct seccomp_notif, linux/seccomp.h, 5.0 */
    uint64_t id;
    uint32_t pid;
    uint32_t flags;
    int32_t nr;
    uint32_t arch;
    uint64_t instruction_pointer;
    uint64_t args[6];
};

long sl_notif_receive(int listener, void *request);
long sl_notif_send(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags);
long sl_notif_id_valid(int listener, uint64_t id);
long sl_notif_add_fd(int listener, uint64_t id, uint32_t flags, int source, uint32_t target, uint32_t target_flags);
long sl_notif_set_flags(int listener, uint64_t flags);
long sl_notif_next(int listener, void *request, int64_t wait_ns);
long sl_notif_exchange(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags, void *request,
                       int64_t wait_ns);

#endif
