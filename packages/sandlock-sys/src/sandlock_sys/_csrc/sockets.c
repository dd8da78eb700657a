/* Calls on somebody else's socket, held by a copy of its fd. None of them waits for a peer but sl_socket_connect and
 * sl_socket_send, and these only where the socket and the flags say so.
 */
#include "sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "raw.h"

#ifndef __NR_pidfd_getfd /* the same number on every architecture, 5.6 */
#define __NR_pidfd_getfd 438
#endif

#define SL_PIDFD_THREAD O_EXCL        /* linux/pidfd.h, 6.9 */
#define SL_MSG_FASTOPEN 0x20000000    /* linux/socket.h, 3.5 */
#define SL_NOTIF_ID_VALID _IOW('!', 2, uint64_t) /* linux/seccomp.h, 5.0; this direction 5.8 */
#define SL_TCP_FASTOPEN_NO_COOKIE 34  /* linux/tcp.h, 4.15 */

_Static_assert(sizeof(struct sl_socket) == 32, "struct sl_socket has 32 bytes");

static long option(int fd, int name, void *value, uint32_t size)
{
    return RAW(__NR_getsockopt, fd, SOL_SOCKET, name, value, &size);
}

static long describe(struct sl_socket *taken)
{
    long result = option(taken->fd, SL_SO_DOMAIN, &taken->domain, sizeof(int));
    if (result == 0)
        result = option(taken->fd, SO_TYPE, &taken->type, sizeof(int));
    if (result == 0)
        result = option(taken->fd, SL_SO_PROTOCOL, &taken->protocol, sizeof(int));
    if (result == 0)
        result = option(taken->fd, SL_SO_COOKIE, &taken->cookie, sizeof(uint64_t));
    if (result == 0)
        result = RAW(__NR_fcntl, taken->fd, F_GETFL, 0);
    if (result < 0)
        return result;
    taken->nonblocking = (result & O_NONBLOCK) != 0;
    return 0;
}

/* A pidfd of the thread. Before 6.9 only the leader of a process has one; then -EINVAL or -ENOENT comes back. */
long sl_socket_thread(int tid)
{
    long result = RAW(__NR_pidfd_open, tid, SL_PIDFD_THREAD);
    return result == -EINVAL ? RAW(__NR_pidfd_open, tid, 0) : result;
}

/* A copy, close-on-exec, of what the thread has by the number `remote`. */
long sl_socket_copy(int pidfd, int remote)
{
    return RAW(__NR_pidfd_getfd, pidfd, remote, 0);
}

/* The copy of fd `remote` of thread `tid`, close-on-exec, and what kind of socket it is.
 * taken->pidfd is a pidfd of the thread, or -1: then one is opened, which is the caller's to keep or to close, also when
 * the rest fails. */
long sl_socket_take(int tid, int remote, struct sl_socket *taken)
{
    long result;
    if (taken->pidfd < 0) {
        result = sl_socket_thread(tid);
        if (result < 0)
            return result;
        taken->pidfd = (int)result;
    }
    result = sl_socket_copy(taken->pidfd, remote);
    if (result < 0)
        return result == -EBADF ? -EBADFD : result; /* the other's bad fd, not one of ours */
    taken->fd = (int)result;
    result = describe(taken);
    if (result < 0)
        RAW(__NR_close, taken->fd);
    return result;
}

static long copy(int tid, uint64_t name_at, void *name, size_t name_size, uint64_t data_at, void *data, size_t data_size)
{
    struct iovec local[2] = {{name, name_size}, {data, data_size}};
    struct iovec remote[2] = {{(void *)name_at, name_size}, {(void *)data_at, data_size}};
    long result;
    if (name_size + data_size == 0)
        return 0;
    result = RAW(__NR_process_vm_readv, tid, local, 2, remote, 2, 0);
    if (result >= 0 && (size_t)result < name_size + data_size)
        return -EFAULT;
    return result < 0 ? result : 0;
}

/* sl_socket_take, and copies of two ranges of the thread's memory; then a look whether all of it was still the thread
 * that waits in notification `id`: -ESTALE says that it was not. */
long sl_socket_take_with(int listener, uint64_t id, int tid, int remote, struct sl_socket *taken, uint64_t name_at,
                         void *name, size_t name_size, uint64_t data_at, void *data, size_t data_size)
{
    long valid, result = sl_socket_take(tid, remote, taken);
    if (result < 0)
        return result;
    result = copy(tid, name_at, name, name_size, data_at, data, data_size);
    do {
        valid = RAW(__NR_ioctl, listener, SL_NOTIF_ID_VALID, &id);
    } while (valid == -EINTR);
    if (valid < 0)
        result = valid == -ENOENT ? -ESTALE : valid;
    if (result < 0)
        RAW(__NR_close, taken->fd);
    return result;
}

long sl_socket_connect(int fd, const void *address, uint32_t length)
{
    return RAW(__NR_connect, fd, address, length);
}

static long fast_open(int fd, const void *address, uint32_t length)
{
    return RAW(__NR_sendto, fd, address, 0, SL_MSG_FASTOPEN | MSG_DONTWAIT | MSG_NOSIGNAL, address, length);
}

/* Start to connect a TCP socket without waiting, though it may be a blocking one: connect(2) looks at O_NONBLOCK, which
 * all copies share, but the connect inside of an empty fast open looks at MSG_DONTWAIT. Without a cookie there is no
 * fast open on the wire: the SYN is an ordinary one. Called again, it tells how far the connection is.
 * 0: connected. -EALREADY: not yet. -EOPNOTSUPP: the host has switched the client side off (net.ipv4.tcp_fastopen). */
long sl_socket_start(int fd, const void *address, uint32_t length)
{
    long result = sl_socket_begin(fd, address, length);
    if (result == -EINPROGRESS) /* also on loopback, where it is done by now */
        result = fast_open(fd, address, length);
    return result;
}

/* The same, once: what connect(2) does where O_NONBLOCK is set. */
long sl_socket_begin(int fd, const void *address, uint32_t length)
{
    int one = 1;
    if (RAW(__NR_setsockopt, fd, IPPROTO_TCP, SL_TCP_FASTOPEN_NO_COOKIE, &one, sizeof(one)) == -ENOPROTOOPT)
        return -EOPNOTSUPP;
    /* -EINVAL: it is being connected already, or is connected; the call tells which. */
    return fast_open(fd, address, length);
}

long sl_socket_bind(int fd, const void *address, uint32_t length)
{
    return RAW(__NR_bind, fd, address, length);
}

long sl_socket_listen(int fd, int backlog)
{
    return RAW(__NR_listen, fd, backlog);
}

long sl_socket_send(int fd, const void *data, size_t size, const void *name, uint32_t name_size,
                    const void *control, size_t control_size, uint32_t flags)
{
    struct iovec vector = {(void *)data, size};
    struct msghdr message = {
        .msg_name = name_size ? (void *)name : NULL, .msg_namelen = name_size,
        .msg_iov = &vector, .msg_iovlen = 1,
        .msg_control = control_size ? (void *)control : NULL, .msg_controllen = control_size,
    };
    return RAW(__NR_sendmsg, fd, &message, flags);
}

long sl_socket_name(int fd, int peer, void *address, uint32_t length)
{
    long result = RAW(peer ? __NR_getpeername : __NR_getsockname, fd, address, &length);
    return result < 0 ? result : (long)length;
}

long sl_socket_get(int fd, int level, int name, void *value, uint32_t length)
{
    long result = RAW(__NR_getsockopt, fd, level, name, value, &length);
    return result < 0 ? result : (long)length;
}

long sl_socket_set(int fd, int level, int name, const void *value, uint32_t length)
{
    return RAW(__NR_setsockopt, fd, level, name, value, length);
}
