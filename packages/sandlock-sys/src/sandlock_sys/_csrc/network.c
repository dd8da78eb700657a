/* The network namespace of a run: empty, and perhaps used before. See child.c for what may not be done here.
 *
 * Making one costs half a launch, and the kernel takes as long to give it up. So the host keeps some that were given back
 * (kept_network.py says when): lent to one run at a time, after everything of the last one has ended. What could be left
 * in one are sockets, in a garbage cycle or in somebody's hands, so it is asked whether there are any.
 */
#include "network.h"

#include <linux/fcntl.h>
#include <linux/sched.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "child.h"
#include "raw.h"

enum {
    DUPLICATE_ABOVE = 1030, /* F_DUPFD_CLOEXEC */
    FIRST_BEYOND_STDIO = 3,
};

struct fds_sent { /* one control message; both parts are aligned as CMSG_DATA(3) has them */
    struct cmsghdr header;
    int32_t fds[2];
};

_Static_assert(sizeof(struct fds_sent) == CMSG_LEN(8) && sizeof(struct fds_sent) == CMSG_SPACE(8), "one message");

static const char no_sockets[] = "sockets: used 0\n"; /* the first line of sockstat; the kernel's own are not counted */

long sl_write_line(const char *path, const char *text)
{
    long length = 0;
    while (text[length])
        length++;
    long fd = RAW(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long result = RAW(__NR_write, fd, text, length);
    RAW(__NR_close, fd);
    return result < 0 ? result : 0;
}

int sl_map_ids(struct sl_spawn *spawn, const char *uid_map, const char *gid_map)
{
    const char *const files[] = {"/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map"};
    const char *const lines[] = {"deny", uid_map, gid_map};
    for (int index = 0; index < 3; index++) {
        long result = sl_write_line(files[index], lines[index]);
        if (result < 0) {
            sl_fail(spawn, SL_STEP_ID_MAP, result, (uint32_t)index);
            return -1;
        }
    }
    return 0;
}

/* Nonzero when no socket is in this process's network namespace, of any family, wherever its fds are. */
static int is_empty(void)
{
    char told[sizeof no_sockets] = {0};
    long fd = RAW(__NR_openat, AT_FDCWD, "/proc/self/net/sockstat", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    long got = RAW(__NR_read, fd, told, sizeof told - 1);
    RAW(__NR_close, fd);
    unsigned int same = 0;
    while (same < sizeof told - 1 && told[same] == no_sockets[same])
        same++;
    return got == (long)(sizeof told - 1) && same == sizeof told - 1;
}

static int refuse(struct sl_spawn *spawn, long result)
{
    sl_fail(spawn, SL_STEP_NAMESPACE, result, 0);
    return -1;
}

static void hand_over(struct sl_spawn *spawn, int owned)
{
    char sign = 0;
    struct fds_sent sent = {.header = {.cmsg_len = CMSG_LEN(owned ? 8 : 4), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec data = {.iov_base = &sign, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &sent, .msg_controllen = sizeof sent};
    long net = RAW(__NR_openat, AT_FDCWD, "/proc/self/ns/net", O_RDONLY | O_CLOEXEC, 0);
    long owner = owned ? RAW(__NR_openat, AT_FDCWD, "/proc/self/ns/user", O_RDONLY | O_CLOEXEC, 0) : -1;
    sent.fds[0] = (int32_t)net;
    sent.fds[1] = (int32_t)owner;
    if (net >= 0 && (owner >= 0 || !owned))
        spawn->network_sent = RAW(__NR_sendmsg, spawn->control, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
    if (owner >= 0)
        RAW(__NR_close, owner);
    if (net >= 0)
        RAW(__NR_close, net);
}

int sl_enter_network(struct sl_spawn *spawn)
{
    int owned = spawn->flags & SL_SPAWN_USER_NS;
    long result = -1;
    /* Who owns a user namespace from outside may enter it, and is then as able in it as who made it. */
    if (spawn->network >= 0 && owned)
        result = RAW(__NR_setns, spawn->network_owner, CLONE_NEWUSER);
    if (owned && result < 0) {
        result = RAW(__NR_unshare, CLONE_NEWUSER);
        if (result < 0)
            return refuse(spawn, result);
        if (sl_map_ids(spawn, spawn->network_uid_map, spawn->network_gid_map))
            return -1;
    }
    if (spawn->network >= 0 && RAW(__NR_setns, spawn->network, CLONE_NEWNET) >= 0 && is_empty()) {
        spawn->network_taken = 1;
        return 0;
    }
    result = RAW(__NR_unshare, CLONE_NEWNET);
    if (result < 0)
        return refuse(spawn, result);
    if (spawn->flags & SL_SPAWN_KEEP_NET)
        hand_over(spawn, owned);
    return 0;
}

static int32_t move_above(int32_t fd)
{
    long moved = RAW(__NR_fcntl, fd, DUPLICATE_ABOVE, FIRST_BEYOND_STDIO);
    RAW(__NR_close, fd);
    return moved < 0 ? -1 : (int32_t)moved;
}

void sl_network_receive(int control, int32_t *fds)
{
    char sign;
    struct fds_sent sent = {.header.cmsg_len = 0};
    struct iovec data = {.iov_base = &sign, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &sent, .msg_controllen = sizeof sent};
    long got = RAW(__NR_recvmsg, control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    unsigned int count = got == 1 && message.msg_controllen >= sizeof sent.header && sent.header.cmsg_type == SCM_RIGHTS
                             ? (unsigned int)((sent.header.cmsg_len - sizeof sent.header) / sizeof *fds)
                             : 0;
    for (unsigned int index = 0; index < count && index < 2; index++)
        fds[index] = move_above(sent.fds[index]);
}
