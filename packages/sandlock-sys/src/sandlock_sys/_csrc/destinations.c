/* Connects and datagrams to destinations that were decided before, served where their notifications are received: the
 * interpreter is asked about the others.
 *
 * As there, the socket, the address and the data are taken once, then it is looked whether all of them were the caller's,
 * and what follows happens to the copies: a change of memory or of the fd table comes too early or too late, and the
 * kernel never reads the program's memory again. The table is asked about the bytes of the address as a whole, so what is
 * not written exactly as it was before is left to the caller, who begins from the start. Nothing waits here.
 */
#include "destinations.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "raw.h"
#include "sockets.h"

/* What is sent as it is: MSG_DONTROUTE, DONTWAIT, EOR, CONFIRM, NOSIGNAL, MORE. Other flags need more thought. */
#define PLAIN (0x4 | MSG_DONTWAIT | MSG_EOR | 0x800 | MSG_NOSIGNAL | MSG_MORE)

_Static_assert(sizeof(struct sl_destination) == 80, "struct sl_destination");

static uint32_t group_of(const uint8_t *name, uint32_t size)
{
    uint32_t hash = 2166136261U; /* FNV-1a; who makes names meet in one group slows himself */
    for (uint32_t index = 0; index < size; index++)
        hash = (hash ^ name[index]) * 16777619U;
    return (hash ^ hash >> 16) % SL_DESTINATION_GROUPS;
}

void sl_destinations_add(struct sl_destinations *known, uint64_t cookie, int domain, const void *name,
                         uint32_t name_size, const void *packed, uint32_t packed_size)
{
    if (!name_size || name_size > SL_DESTINATION_NAME || !packed_size || packed_size > SL_DESTINATION_NAME)
        return;
    uint32_t group = group_of(name, name_size);
    struct sl_destination *entry = &known->entries[group][known->next[group]];
    known->next[group] = (uint8_t)((known->next[group] + 1) % SL_DESTINATION_GROUP);
    entry->cookie = cookie;
    entry->domain = domain;
    entry->name_size = name_size;
    entry->packed_size = packed_size;
    memcpy(entry->name, name, name_size);
    memcpy(entry->packed, packed, packed_size);
}

void sl_destinations_clear(struct sl_destinations *known)
{
    memset(known->entries, 0, sizeof known->entries);
}

void sl_destinations_close(struct sl_destinations *known)
{
    for (int place = 0; place < SL_DESTINATION_THREADS; place++) {
        if (known->tids[place])
            RAW(__NR_close, known->pidfds[place]);
        known->tids[place] = 0;
    }
}

/* Whether any socket may get further with this name. */
static int named(const struct sl_destinations *known, const uint8_t *name, uint32_t size)
{
    const struct sl_destination *group = known->entries[group_of(name, size)];
    for (int index = 0; index < SL_DESTINATION_GROUP; index++)
        if (group[index].name_size == size && !memcmp(group[index].name, name, size))
            return 1;
    return 0;
}

static const struct sl_destination *find(const struct sl_destinations *known, uint64_t cookie, int domain,
                                         const uint8_t *name, uint32_t size)
{
    const struct sl_destination *group = known->entries[group_of(name, size)];
    for (int index = 0; index < SL_DESTINATION_GROUP; index++)
        if (group[index].name_size == size && group[index].cookie == cookie
            && (cookie || group[index].domain == domain) && !memcmp(group[index].name, name, size))
            return &group[index];
    return NULL;
}

/* A copy of fd `remote` of the thread. A pidfd means one thread for ever: of one that is gone it says so. */
static int take(struct sl_destinations *known, int tid, int remote)
{
    int place = tid % SL_DESTINATION_THREADS;
    if (known->tids[place] == tid) {
        long taken = sl_socket_copy(known->pidfds[place], remote);
        if (taken != -ESRCH)
            return (int)taken;
    }
    if (known->tids[place])
        RAW(__NR_close, known->pidfds[place]);
    long opened = sl_socket_thread(tid);
    known->tids[place] = opened < 0 ? 0 : tid;
    known->pidfds[place] = (int)opened;
    return opened < 0 ? (int)opened : (int)sl_socket_copy((int)opened, remote);
}

static int told(int fd, int option, void *value, uint32_t size)
{
    return sl_socket_get(fd, SOL_SOCKET, option, value, size) == (long)size;
}

static int waits(int listener, const struct sl_notif_request *request)
{
    long result;
    do
        result = sl_notif_id_valid(listener, request->id);
    while (result == -EINTR);
    return result == 0;
}

/* The answer of a call that has been made. Where nobody waits for it any more it is not made again; an answer that the
 * kernel refuses, which it has no reason to, is left to who closes a listener that does not work. */
static int answer(int listener, const struct sl_notif_request *request, long outcome)
{
    long result;
    do
        result = sl_notif_send(listener, request->id, outcome < 0 ? 0 : outcome, outcome < 0 ? (int32_t)outcome : 0, 0);
    while (result == -EINTR);
    return result == 0 || result == -ENOENT;
}

static int copy(const struct sl_notif_request *request, struct iovec *own, struct iovec *theirs, size_t count)
{
    size_t size = 0;
    for (size_t index = 0; index < count; index++)
        size += own[index].iov_len;
    return RAW(__NR_process_vm_readv, request->pid, own, count, theirs, count, 0) == (long)size;
}

/* Connects a TCP socket without waiting. */
static long connect_to(int fd, const struct sl_destination *found)
{
    long flags = RAW(__NR_fcntl, fd, F_GETFL, 0);
    if (flags < 0)
        return -EINTR;
    return (flags & O_NONBLOCK ? sl_socket_begin : sl_socket_start)(fd, found->packed, found->packed_size);
}

/* Whether this is no answer yet: it takes waiting, or another way. It may be asked for again from the beginning, since
 * the kernel knows how far the connection is. */
static int unfinished(long outcome)
{
    return outcome == -EALREADY || outcome == -EOPNOTSUPP || outcome == -EINTR;
}

int sl_destinations_connect(struct sl_destinations *known, int listener, const struct sl_notif_request *request)
{
    uint8_t name[SL_DESTINATION_NAME];
    uint32_t size = (uint32_t)request->args[2];
    struct iovec own = {name, size}, theirs = {(void *)(uintptr_t)request->args[1], size};
    if (!size || size > sizeof name || !copy(request, &own, &theirs, 1) || !named(known, name, size))
        return 0;
    int domain = 0, protocol = 0, fd = take(known, (int)request->pid, (int)request->args[0]);
    long outcome = -EALREADY;
    if (fd < 0)
        return 0;
    if (told(fd, SL_SO_DOMAIN, &domain, sizeof domain) && told(fd, SL_SO_PROTOCOL, &protocol, sizeof protocol)
        && protocol == IPPROTO_TCP && waits(listener, request)) {
        const struct sl_destination *found = find(known, 0, domain, name, size);
        if (found)
            outcome = connect_to(fd, found);
    }
    RAW(__NR_close, fd); /* before the answer: what the caller does with its own comes after */
    return !unfinished(outcome) && answer(listener, request, outcome);
}

int sl_destinations_send(struct sl_destinations *known, int listener, const struct sl_notif_request *request)
{
    uint8_t name[SL_DESTINATION_NAME], data[SL_DESTINATION_DATA];
    uint32_t size = (uint32_t)request->args[5], flags = (uint32_t)request->args[3];
    uint64_t length = request->args[2], cookie = 0;
    struct iovec own[2] = {{name, size}, {data, length}};
    struct iovec theirs[2] = {{(void *)(uintptr_t)request->args[4], size}, {(void *)(uintptr_t)request->args[1], length}};
    if (!size || size > sizeof name || length > sizeof data || flags & ~(uint32_t)PLAIN
        || !copy(request, own, theirs, 2) || !named(known, name, size))
        return 0;
    int fd = take(known, (int)request->pid, (int)request->args[0]);
    long outcome = -EAGAIN;
    if (fd < 0)
        return 0;
    if (told(fd, SL_SO_COOKIE, &cookie, sizeof cookie) && cookie && waits(listener, request)) {
        /* The cookie is one socket's for ever, and the entry was made when that was a datagram socket of the sandbox's.
         * One that was made IPv4 since (IPV6_ADDRFORM) does not take a name of the other family. */
        const struct sl_destination *found = find(known, cookie, 0, name, size);
        if (found)
            outcome = sl_socket_send(fd, data, length, found->packed, found->packed_size, NULL, 0,
                                     flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    RAW(__NR_close, fd);
    return outcome != -EAGAIN && outcome != -EINTR && answer(listener, request, outcome);
}
