/* What stat, statx, access and readlink tell of an object that shortcut.c found. */
#define _GNU_SOURCE
#include "looking.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "inode.h"
#include "procmem.h"
#include "raw.h"
#include "text.h"

enum {
    LONGEST = 4096,         /* PATH_MAX */
    ROOM = 256,             /* for what inode.h tells */
    CWD = -100,             /* AT_FDCWD, linux/fcntl.h */
    SYNC_TYPE = 0x6000,     /* AT_*, linux/fcntl.h */
    EACCESS = 0x200,
    PROC_MAGIC = 0x9fa0,    /* PROC_SUPER_MAGIC, linux/magic.h */
    GOES_ON = 1,            /* SECCOMP_USER_NOTIF_FLAG_CONTINUE, linux/seccomp.h, 5.5 */
};

static uint64_t value_of(const struct sl_call *call, int further)
{
    return call->request->args[call->row->value + further];
}

int sl_call_waits(const struct sl_call *call)
{
    return sl_notif_id_valid(call->shortcut->listener, call->request->id) == 0;
}

static int send(const struct sl_call *call, int64_t value, long error, uint32_t flags)
{
    long result;
    do
        result = sl_notif_send(call->shortcut->listener, call->request->id, value, (int32_t)error, flags);
    while (result == -EINTR);
    return result == 0 || result == -ENOENT;
}

int sl_call_answer(const struct sl_call *call, int64_t value, long error)
{
    return send(call, value, error, 0);
}

int sl_call_goes_on(const struct sl_call *call)
{
    return send(call, 0, 0, GOES_ON);
}

/* Writes to the caller's memory and answers. The fd of the memory stays with the process that it was opened for; that
 * this is the caller's is known when the caller waits afterwards, so nothing is written to one that got its number. */
static int give(const struct sl_call *call, const void *data, size_t size, int64_t value)
{
    char link[32];
    sl_put(sl_put_number(sl_put(link, "/proc/"), call->request->pid), "/mem");
    int memory = (int)RAW(__NR_openat, CWD, link, O_RDWR | O_CLOEXEC, 0);
    if (memory < 0)
        return 0;
    long written = -1;
    if (sl_call_waits(call))
        written = RAW(__NR_pwrite64, memory, data, size, value_of(call, 0));
    RAW(__NR_close, memory);
    return written == (long)size && sl_call_answer(call, value, 0);
}

int sl_call_stat(const struct sl_call *call)
{
    _Alignas(16) char data[ROOM];
    long size = sl_inode_stat(call->object, data);
    if (size > 0 && call->shown)
        sl_inode_renumber_stat(data, call->device, call->inode);
    return size > 0 && give(call, data, (size_t)size, 0);
}

int sl_call_statx(const struct sl_call *call)
{
    _Alignas(16) char data[ROOM];
    uint32_t mask = (uint32_t)value_of(call, -1);
    if (sl_inode_statx(call->object, call->flags & SYNC_TYPE, mask, data) != 0)
        return 0;
    if (call->shown)
        sl_inode_renumber_statx(data, call->device, call->inode);
    return give(call, data, ROOM, 0);
}

int sl_call_access(const struct sl_call *call)
{
    int mode = (int)value_of(call, 0);
    if (call->in_branch) /* where it is refused, the branch says why */
        return !sl_inode_access(call->object, mode, EACCESS) && sl_call_answer(call, 0, 0);
    return sl_call_answer(call, 0, sl_inode_access(call->object, mode, (int)(call->flags & EACCESS)));
}

int sl_call_readlink(const struct sl_call *call)
{
    char text[LONGEST];
    _Alignas(16) char system[ROOM];
    if ((call->mode & SL_TYPE) != SL_LINK)
        return sl_call_answer(call, 0, -EINVAL);
    uint64_t magic = 0; /* links of /proc say what is true for who asks */
    if (sl_inode_statfs(call->object, system) < 0 || (memcpy(&magic, system, sizeof magic), magic == PROC_MAGIC))
        return 0;
    long size = sl_inode_readlink(call->object, text, sizeof text), room = (int32_t)value_of(call, 1);
    if (size <= 0 || size >= LONGEST)
        return 0;
    if (size > room)
        size = room;
    return give(call, text, (size_t)size, size);
}
