#include "pidfd.h"

#include "raw.h"

#ifndef __NR_pidfd_getfd /* the same number on every architecture, 5.6 */
#define __NR_pidfd_getfd 438
#endif

long sl_pidfd_open(int pid, uint32_t flags)
{
    return RAW(__NR_pidfd_open, pid, flags);
}

long sl_pidfd_getfd(int pidfd, int remote, uint32_t flags)
{
    return RAW(__NR_pidfd_getfd, pidfd, remote, flags);
}

long sl_pidfd_send_signal(int pidfd, int signal, const void *info, uint32_t flags)
{
    return RAW(__NR_pidfd_send_signal, pidfd, signal, info, flags);
}
