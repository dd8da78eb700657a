#ifndef SANDLOCK_PIDFD_H
#define SANDLOCK_PIDFD_H

#include <stdint.h>

long sl_pidfd_open(int pid, uint32_t flags);
long sl_pidfd_getfd(int pidfd, int remote, uint32_t flags);
long sl_pidfd_send_signal(int pidfd, int signal, const void *info, uint32_t flags);

#endif
