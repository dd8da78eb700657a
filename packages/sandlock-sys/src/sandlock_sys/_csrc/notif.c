#include "notif.h"

#include <errno.h>
#include <linux/ioctl.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "raw.h"

/* More structures of linux/seccomp.h, 5.0 (addfd 5.9) */
struct response {
    uint64_t id;
    int64_t value;
    int32_t error;
    uint32_t flags;
};

struct add_fd {
    uint64_t id;
    uint32_t flags;
    uint32_t source;
    uint32_t target;
    uint32_t target_flags;
};

_Static_assert(sizeof(struct sl_notif_request) == SL_NOTIF_REQUEST_SIZE, "struct seccomp_notif");
_Static_assert(sizeof(struct response) == 24, "struct seccomp_notif_resp");
_Static_assert(sizeof(struct add_fd) == 24, "struct seccomp_notif_addfd");

#define NOTIF_RECV _IOWR('!', 0, struct sl_notif_request)   /* 5.0 */
#define NOTIF_SEND _IOWR('!', 1, struct response)  /* 5.0 */
#define NOTIF_ID_VALID _IOW('!', 2, uint64_t)      /* 5.0; this direction 5.8 */
#define NOTIF_ADDFD _IOW('!', 3, struct add_fd)    /* 5.9 */
#define NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)     /* 6.6 */

long sl_notif_receive(int listener, void *request)
{
    memset(request, 0, SL_NOTIF_REQUEST_SIZE); /* the kernel refuses a buffer that is not zero */
    return RAW(__NR_ioctl, listener, NOTIF_RECV, request);
}

long sl_notif_send(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags)
{
    struct response response = {id, value, error, flags};
    return RAW(__NR_ioctl, listener, NOTIF_SEND, &response);
}

long sl_notif_id_valid(int listener, uint64_t id)
{
    return RAW(__NR_ioctl, listener, NOTIF_ID_VALID, &id);
}

long sl_notif_add_fd(int listener, uint64_t id, uint32_t flags, int source, uint32_t target, uint32_t target_flags)
{
    /* The kernel marks the notification as answered before it waits for the other task to install the fd. A signal
     * in that wait takes the fd back, but not the answer: the call would return 0, which the sandboxed program reads
     * as "opened as fd 0". So no signal may come in between. */
    struct add_fd request = {id, flags, (uint32_t)source, target, target_flags};
    uint64_t all = ~(uint64_t)0, before = 0;
    long masked = RAW(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &all, &before, sizeof all);
    if (masked < 0)
        return masked;
    long result = RAW(__NR_ioctl, listener, NOTIF_ADDFD, &request);
    RAW(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &before, 0, sizeof before);
    return result;
}

long sl_notif_set_flags(int listener, uint64_t flags)
{
    return RAW(__NR_ioctl, listener, NOTIF_SET_FLAGS, flags); /* the flags are the argument, not behind a pointer */
}

long sl_notif_next(int listener, void *request, int64_t wait_ns)
{
    struct pollfd watch = {listener, POLLIN, 0};
    struct timespec limit = {wait_ns / 1000000000, wait_ns % 1000000000};
    long ready = RAW(__NR_ppoll, &watch, 1, &limit, 0, 8);
    if (ready <= 0)
        return ready == -EINTR ? 0 : ready;
    if (!(watch.revents & POLLIN))
        return -EPIPE; /* no task has the filter any more */
    long result = sl_notif_receive(listener, request);
    /* The task may have been killed meanwhile: then there is nothing yet, and the caller looks again. */
    return result == -ENOENT || result == -EINTR ? 0 : result < 0 ? result : 1;
}

long sl_notif_exchange(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags, void *request,
                       int64_t wait_ns)
{
    long result;
    do
        result = sl_notif_send(listener, id, value, error, flags);
    while (result == -EINTR); /* another thread holds the listener's lock and a signal came: nothing was sent */
    if (result < 0 && result != -ENOENT) {
        memset(request, 0, SL_NOTIF_REQUEST_SIZE);
        return result;
    }
    return sl_notif_next(listener, request, wait_ns);
}
