/* Requests about files that no rule touches, served where they are received: the interpreter is asked about the others.
 *
 * A request is served here only if its path has none of the names by which a marked object is reached, starts outside
 * what is denied, and leads in one step of the kernel's, which follows no symlink, to an object without a mark. An error
 * of that step is the answer, also one of this process's own (EMFILE): it denies. All else is left to the caller, who
 * begins from the start: nothing that was found out here is used for it. The judgement is that of
 * sandlock_notif.fs.resolve, and has to stay the same.
 */
#define _GNU_SOURCE
#include "shortcut.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>

#include "deputy.h"
#include "looking.h"
#include "notif.h"
#include "procmem.h"
#include "raw.h"
#include "text.h"
#include "walk.h"

enum {
    LONGEST = 4096,             /* PATH_MAX */
    DEEPEST = 64,               /* the way up is gone at each call: who works further down must not hold others up */
    CWD = -100,                 /* AT_FDCWD, linux/fcntl.h */
    SYMLINK_NOFOLLOW = 0x100,   /* AT_*, linux/fcntl.h */
    NO_AUTOMOUNT = 0x800,
    EMPTY_PATH = 0x1000,        /* says nothing of a path that is not empty */
    SYNC_TYPE = 0x6000,
    EACCESS = 0x200,
    STATX_RESERVED_ = (int)0x80000000,
    ADDFD_SEND = 2,             /* SECCOMP_ADDFD_FLAG_SEND, linux/seccomp.h, 5.14 */
    TMPFILE = 020000000,        /* __O_TMPFILE, asm-generic/fcntl.h, 3.11 */
};

/* What open does not refuse and knows, as in sandlock_notif.handlers.files.opening. The other flags need more thought. */
#define OPEN_KNOWN (O_ACCMODE | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_ASYNC | O_DIRECT \
                    | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | 0100000 | O_LARGEFILE)
#define OPEN_THOUGHT (O_CREAT | O_EXCL | O_PATH | TMPFILE)

static uint64_t argument(const struct sl_call *call, int index)
{
    return call->request->args[index];
}

/* Reads the flags, and tells whether they are plain ones. */
static int understood(struct sl_call *call)
{
    const struct sl_shortcut_row *row = call->row;
    uint64_t wide = row->flags < 0 ? (uint64_t)row->fixed : argument(call, row->flags);
    uint32_t flags = call->flags = (uint32_t)wide;
    const uint32_t look = SYMLINK_NOFOLLOW | NO_AUTOMOUNT | EMPTY_PATH | SYNC_TYPE;
    call->find = SL_WALK_CACHED;
    switch (row->kind) {
    case SL_SHORTCUT_STAT:
        call->find |= flags & SYMLINK_NOFOLLOW ? SL_WALK_NO_FOLLOW : 0;
        return !(flags & ~look);
    case SL_SHORTCUT_STATX:
        call->find |= flags & SYMLINK_NOFOLLOW ? SL_WALK_NO_FOLLOW : 0;
        return !(flags & ~look) && (flags & SYNC_TYPE) != SYNC_TYPE
               && !(argument(call, row->value - 1) & (uint32_t)STATX_RESERVED_);
    case SL_SHORTCUT_ACCESS:
        call->find |= flags & SYMLINK_NOFOLLOW ? SL_WALK_NO_FOLLOW : 0;
        return !(flags & ~(uint32_t)(SYMLINK_NOFOLLOW | EMPTY_PATH | EACCESS)) && !((uint32_t)argument(call, row->value) & ~7U);
    case SL_SHORTCUT_READLINK:
        call->find |= SL_WALK_NO_FOLLOW;
        return (int32_t)argument(call, row->value + 1) > 0;
    case SL_SHORTCUT_OPEN:
        call->find |= flags & O_NOFOLLOW ? SL_WALK_NO_FOLLOW : 0;
        return !(flags & OPEN_THOUGHT);
    default:
        return 0;
    }
}

/* Whether paths that start in this directory are served: it is not closed, nothing denied above it, within the fence. */
static int good_start(const struct sl_shortcut *shortcut, int start)
{
    struct sl_walk found;
    sl_look(start, shortcut->closed, shortcut->closed_count, &found);
    if (found.outcome != SL_WALK_END || (found.mode & SL_TYPE) != SL_FOLDER)
        return 0;
    if (shortcut->denied_count && sl_climb_at_most(start, shortcut->denied, shortcut->denied_count, DEEPEST) != -ENOENT)
        return 0;
    return !shortcut->fence_count || sl_climb_at_most(start, shortcut->fence, shortcut->fence_count, DEEPEST) >= 0;
}

/* The fd that a relative path starts from, to be closed; -1: not served. It is not judged yet. */
static int start_of(const struct sl_call *call)
{
    const struct sl_shortcut *shortcut = call->shortcut;
    char link[48];
    int at = call->row->at < 0 ? CWD : (int)(uint32_t)argument(call, call->row->at);
    if (!shortcut->relative || (at < 0 && (at != CWD || call->row->path < 0)))
        return -1;
    char *end = sl_put_number(sl_put(link, "/proc/"), call->request->pid);
    if (at == CWD)
        sl_put(end, "/cwd");
    else
        sl_put_number(sl_put(end, "/fd/"), (uint32_t)at);
    int start = (int)RAW(__NR_openat, CWD, link, O_PATH | O_CLOEXEC, 0);
    if (start < 0)
        return -1;
    /* It was the caller's if the caller waits still. */
    if (sl_call_waits(call))
        return start;
    RAW(__NR_close, start);
    return -1;
}

static long free_slot(struct sl_deputy *deputy)
{
    for (uint32_t index = SL_DEPUTY_SLOTS; index < SL_DEPUTY_SLOTS + SL_DEPUTY_OWN; index++)
        if (__atomic_load_n(&deputy->slots[index].state, __ATOMIC_ACQUIRE) == 0)
            return index;
    return -1;
}

/* Opens exactly the object for reading and gives it to the caller; -1: somebody has to wait for a lease. A branch opens
 * its files itself, here as there: its storage is none of the domain's business, and its real tree is granted. */
static int open_in_branch(struct sl_call *call)
{
    char link[48];
    uint32_t flags = call->flags & OPEN_KNOWN & ~(uint32_t)O_NOFOLLOW;
    if (flags & (O_ACCMODE | O_TRUNC)) /* it would have to be copied up */
        return 0;
    sl_put_number(sl_put(link, "/proc/self/fd/"), (uint32_t)call->object);
    long fd = RAW(__NR_openat, CWD, link, flags | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd == -EWOULDBLOCK)
        return -1;
    if (fd < 0)
        return sl_call_answer(call, 0, fd);
    long result = flags & O_NONBLOCK ? 0 : RAW(__NR_fcntl, fd, F_SETFL, flags);
    int unchanged = result < 0;
    if (!unchanged)
        result = sl_notif_add_fd(call->shortcut->listener, call->request->id, ADDFD_SEND, (int)fd, 0, flags & O_CLOEXEC);
    RAW(__NR_close, fd);
    if (unchanged || result == -EINVAL)
        return 0;
    return result >= 0 || result == -ENOENT || sl_call_answer(call, 0, result);
}

/* Lets the deputy open exactly the object, give it to the caller, and close what this thread found it by. */
static int open_object(struct sl_call *call)
{
    struct sl_deputy *deputy = call->shortcut->deputy;
    uint32_t type = call->mode & SL_TYPE;
    if (type != SL_FILE && type != SL_FOLDER)
        return 0;
    int done = call->in_branch ? open_in_branch(call) : -1;
    if (done >= 0)
        return done;
    long index = deputy ? free_slot(deputy) : -1;
    if (index < 0 || sl_deputy_busy(deputy) > call->shortcut->blocked_ns)
        return 0;
    struct sl_deputy_slot *slot = &deputy->slots[index];
    memset(slot, 0, offsetof(struct sl_deputy_slot, buffer));
    sl_put_number(sl_put(slot->buffer, "/proc/self/fd/"), (uint32_t)call->object);
    slot->number = __NR_openat;
    slot->arguments[0] = (uint64_t)(int64_t)CWD;
    slot->arguments[2] = (call->flags & OPEN_KNOWN & ~(uint32_t)O_NOFOLLOW) | O_CLOEXEC;
    slot->buffer_mask = 1U << 1;
    slot->notification = call->request->id;
    slot->answer = SL_ANSWER_FD;
    slot->fd_flags = call->flags & O_CLOEXEC;
    slot->lent = call->object + 1;
    call->object = -1;
    sl_deputy_submit(deputy, (uint32_t)index);
    return 1;
}

static int act(struct sl_call *call)
{
    switch (call->row->kind) {
    case SL_SHORTCUT_STAT:
        return sl_call_stat(call);
    case SL_SHORTCUT_STATX:
        return sl_call_statx(call);
    case SL_SHORTCUT_ACCESS:
        return sl_call_access(call);
    case SL_SHORTCUT_READLINK:
        return sl_call_readlink(call);
    default:
        return open_object(call);
    }
}

static int act_on(struct sl_call *call, const struct sl_walk *found)
{
    if (found->outcome == SL_WALK_ERROR) /* a symlink, or what the kernel would have to ask a file system for */
        return found->error != ELOOP && found->error != EAGAIN && sl_call_answer(call, 0, -found->error);
    call->object = found->object;
    call->mode = found->mode;
    int served = found->outcome == SL_WALK_END && sl_prompt(call->shortcut, call->row->kind, found->device) && act(call);
    if (call->object >= 0)
        RAW(__NR_close, call->object);
    return served;
}

static int find_and_act(struct sl_call *call, int start, const char *path)
{
    struct sl_walk found;
    sl_find(start, path, call->find, call->shortcut->marks, call->shortcut->mark_count, &found);
    return act_on(call, &found);
}

static void show(struct sl_call *call, const struct sl_walk *found)
{
    call->device = found->device;
    call->inode = found->inode;
    call->shown = sl_branch_show(&call->shortcut->branch, &call->device, &call->inode);
}

/* As find_and_act, for a path of the branch. What was found counts if nobody changed the branch meanwhile, or what it
 * is judged by: whoever does says that a change begins, forgets the shortcut if need be, and says that it is over. */
static int find_in_branch(struct sl_call *call, const char *path)
{
    const struct sl_shortcut *shortcut = call->shortcut;
    const struct sl_branch *branch = &shortcut->branch;
    struct sl_walk found;
    int64_t state = sl_branch_begin(branch);
    if (state < 0 || !sl_branch_find(branch, path, call->find, shortcut->marks, shortcut->mark_count, &found))
        return 0;
    show(call, &found);
    if (!sl_branch_settled(branch, state) || __atomic_load_n(&shortcut->stale, __ATOMIC_ACQUIRE)) {
        if (found.object >= 0)
            RAW(__NR_close, found.object);
        return 0;
    }
    call->in_branch = 1;
    return act_on(call, &found);
}

/* A path that starts outside of the branch, which may lead into it. */
static int serve_from(struct sl_call *call, int start, const char *path)
{
    const struct sl_shortcut *shortcut = call->shortcut;
    struct sl_names names = {shortcut->names, shortcut->name_at, shortcut->name_count};
    size_t end;
    if (sl_name_first(&names, path, &end) < 0)
        return find_and_act(call, start, path);
    if (shortcut->branch.upper < 0)
        return 0;
    path = sl_branch_enter(&shortcut->branch, start, path, &names, shortcut->marks, shortcut->mark_count);
    return path && find_in_branch(call, path);
}

/* A path that starts in a directory that the caller has. */
static int serve_relative(struct sl_call *call, int start, const char *path)
{
    const struct sl_branch *branch = &call->shortcut->branch;
    char whole[LONGEST];
    if (branch->upper >= 0) {
        int inside = sl_branch_from(branch, start, path, whole, sizeof whole);
        if (inside)
            return inside > 0 && find_in_branch(call, whole);
    }
    return good_start(call->shortcut, start) && serve_from(call, start, path);
}

/* What the caller's fd itself stands for. Its number is another one if it is of the upper layer. */
static int serve_object(struct sl_call *call, int object, int by_number)
{
    struct sl_shortcut *shortcut = call->shortcut;
    const struct sl_branch *branch = &shortcut->branch;
    struct sl_walk found;
    int64_t state = branch->upper < 0 ? 0 : sl_branch_begin(branch);
    sl_look(object, by_number ? NULL : shortcut->marks, by_number ? 0 : shortcut->mark_count, &found);
    if (state < 0 || found.outcome != SL_WALK_END)
        return 0;
    if (branch->upper >= 0) {
        show(call, &found);
        call->shown = call->shown && sl_branch_holds(branch, object);
        if (!sl_branch_settled(branch, state))
            return 0;
    }
    if (__atomic_load_n(&shortcut->stale, __ATOMIC_ACQUIRE))
        return 0;
    if (by_number && !call->shown) /* all of it is in registers, and what the kernel says is true */
        return sl_call_goes_on(call);
    if (!by_number && (found.mode & SL_TYPE) == SL_FOLDER && (shortcut->denied_count || shortcut->fence_count))
        return 0;
    call->object = object;
    int served = sl_prompt(shortcut, call->row->kind, found.device) && act(call);
    call->object = -1;
    return served;
}

static int serve_fd(struct sl_call *call)
{
    int object = start_of(call);
    if (object < 0)
        return 0;
    int served = serve_object(call, object, call->row->path < 0);
    RAW(__NR_close, object);
    return served;
}

/* Whether a call without a path is about the fd that it starts from. */
static int may_lack_path(const struct sl_call *call)
{
    return call->flags & EMPTY_PATH && (call->row->kind == SL_SHORTCUT_STAT || call->row->kind == SL_SHORTCUT_STATX);
}

static int serve(struct sl_call *call)
{
    struct sl_shortcut *shortcut = call->shortcut;
    char path[LONGEST];
    if (!understood(call))
        return 0;
    if (call->row->path < 0 || (may_lack_path(call) && !argument(call, call->row->path)))
        return serve_fd(call);
    long length = sl_procmem_string((int)call->request->pid, argument(call, call->row->path), path, sizeof path);
    if (length < 0 || !sl_call_waits(call))
        return 0;
    if (!length)
        return may_lack_path(call) && serve_fd(call);
    if (path[0] == '/' && shortcut->branch.upper >= 0 && shortcut->branch.whole)
        return find_in_branch(call, path);
    if (path[0] == '/')
        return shortcut->root >= 0 && serve_from(call, shortcut->root, path);
    int start = start_of(call);
    if (start < 0)
        return 0;
    int served = serve_relative(call, start, path);
    RAW(__NR_close, start);
    return served;
}

int sl_shortcut_file(struct sl_shortcut *shortcut, const struct sl_notif_request *request, const struct sl_shortcut_row *row)
{
    struct sl_call call = {.shortcut = shortcut, .request = request, .row = row, .object = -1};
    return serve(&call);
}
