#ifndef SANDLOCK_NOTIF_H
#define SANDLOCK_NOTIF_H

#include <stdint.h>

#define SL_NOTIF_REQUEST_SIZE 80

long sl_notif_receive(int listener, void *request);
long sl_notif_send(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags);
long sl_notif_id_valid(int listener, uint64_t id);
long sl_notif_add_fd(int listener, uint64_t id, uint32_t flags, int source, uint32_t target, uint32_t target_flags);
long sl_notif_set_flags(int listener, uint64_t flags);
long sl_notif_next(int listener, void *request, int64_t wait_ns);
long sl_notif_exchange(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags, void *request,
                       int64_t wait_ns);

#endif
