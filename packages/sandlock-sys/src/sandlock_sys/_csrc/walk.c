/* Path walks by hand: component by component, each one pinned by an O_PATH fd and known by its identity.
 *
 * The kernel's own walk says where it arrived, not what it went through. Whoever must know whether a path leads through
 * a certain directory, whatever its name is by now, has to look at each step.
 */
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>

#include "raw.h"

#ifndef __NR_openat2
#define __NR_openat2 437 /* 5.6, the same number everywhere */
#endif

enum {
    PATH_FD = 010000000,     /* O_PATH, asm-generic/fcntl.h, 2.6.39 */
    EMPTY_PATH = 0x1000,     /* AT_EMPTY_PATH, linux/fcntl.h, 2.6.39 */
    NO_AUTOMOUNT = 0x800,    /* AT_NO_AUTOMOUNT */
    DONT_SYNC = 0x4000,      /* AT_STATX_DONT_SYNC: what is known, without asking a server; 4.11 */
    RESOLVE_CACHED_ = 0x20,  /* linux/openat2.h, 5.12 */
    RESOLVE_BENEATH_ = 0x8,  /* 5.6 */
    RESOLVE_PLAIN = 0x2 | 0x4, /* RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS, 5.6 */
    WANTED = 0x1 | 0x2 | 0x100 | 0x1000, /* STATX_TYPE | STATX_MODE | STATX_INO | STATX_MNT_ID (5.8) */
    LONGEST = 255,           /* NAME_MAX of every file system here; longer ones are refused as the kernel does */
    STEPS = 4096,
};

struct how { /* struct open_how */
    uint64_t flags, mode, resolve;
};

struct times { /* struct statx_timestamp */
    int64_t seconds;
    uint32_t nanoseconds;
    int32_t reserved;
};

struct extended { /* struct statx, linux/stat.h, 4.11 */
    uint32_t mask, block_size;
    uint64_t attributes;
    uint32_t links, uid, gid;
    uint16_t mode, spare;
    uint64_t inode, size, blocks, attributes_mask;
    struct times access, birth, change, modification;
    uint32_t special_major, special_minor, major, minor;
    uint64_t mount, more[13];
};

_Static_assert(sizeof(struct extended) == 256, "struct statx");
_Static_assert(offsetof(struct extended, major) == 136, "struct statx");
_Static_assert(sizeof(struct sl_walk) == 48, "struct sl_walk");

struct identity {
    uint64_t device, inode, mount;
    uint32_t mode;
};

/* As new_encode_dev of the kernel: st_dev of struct stat. */
static uint64_t device_number(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | ((uint64_t)(major & 0xfff) << 8) | ((uint64_t)(minor & ~0xffU) << 12)
           | ((uint64_t)(major & ~0xfffU) << 32);
}

static long identify(int fd, struct identity *identity)
{
    struct extended found;
    long result = RAW(__NR_statx, fd, "", EMPTY_PATH | NO_AUTOMOUNT | DONT_SYNC, WANTED, &found);
    if (result < 0)
        return result;
    identity->device = device_number(found.major, found.minor);
    identity->inode = found.inode;
    identity->mount = found.mount;
    identity->mode = found.mode;
    return 0;
}

static long marked(const struct identity *identity, const struct sl_walk_mark *marks, uint32_t count)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct sl_walk_mark *mark = &marks[middle];
        if (mark->device == identity->device && mark->inode == identity->inode)
            return middle;
        if (mark->device < identity->device || (mark->device == identity->device && mark->inode < identity->inode))
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

int sl_has_device(uint64_t device, const struct sl_walk_mark *devices, uint32_t count)
{
    const struct identity wanted = {.device = device};
    return marked(&wanted, devices, count) >= 0;
}

static long step(int directory, const char *name, uint32_t flags)
{
    struct how how = {PATH_FD | O_NOFOLLOW | O_CLOEXEC, 0, flags & SL_WALK_CACHED ? RESOLVE_CACHED_ : 0};
    return RAW(__NR_openat2, directory, name, &how, sizeof how);
}

static void drop(int fd)
{
    if (fd >= 0)
        RAW(__NR_close, fd);
}

static long end(struct sl_walk *walk, enum sl_walk_outcome outcome, int error)
{
    walk->outcome = outcome;
    walk->error = error;
    if (outcome == SL_WALK_ERROR) {
        drop(walk->directory);
        drop(walk->object);
        walk->directory = walk->object = -1;
    }
    return 0;
}

static int is_directory(uint32_t mode)
{
    return (mode & 0170000) == 0040000;
}

static int is_link(uint32_t mode)
{
    return (mode & 0170000) == 0120000;
}

/* Looks at what one component led to; 1: go on below it. */
static int judge(struct sl_walk *walk, uint32_t flags, int slash, const struct sl_walk_mark *marks, uint32_t count)
{
    struct identity identity;
    long result = identify(walk->object, &identity);
    if (result < 0)
        return (int)end(walk, SL_WALK_ERROR, (int)-result);
    walk->device = identity.device;
    walk->inode = identity.inode;
    walk->mode = identity.mode;
    if (is_link(identity.mode)) {
        int stay = walk->last && (flags & SL_WALK_PARENT || (flags & SL_WALK_NO_FOLLOW && !slash));
        if (!stay)
            return (int)end(walk, SL_WALK_LINK, 0);
    }
    if (marked(&identity, marks, count) >= 0)
        return (int)end(walk, SL_WALK_MARK, 0);
    if (walk->last) {
        if (slash && !(flags & SL_WALK_PARENT) && !is_directory(identity.mode))
            return (int)end(walk, SL_WALK_ERROR, ENOTDIR);
        return (int)end(walk, SL_WALK_END, 0);
    }
    if (!is_directory(identity.mode))
        return (int)end(walk, SL_WALK_ERROR, ENOTDIR);
    drop(walk->directory);
    walk->directory = walk->object;
    walk->object = -1;
    return 1;
}

/* Makes the walk end at the directory that it is in, which no component names. */
static long end_here(struct sl_walk *walk, int start, uint32_t at)
{
    struct identity identity;
    walk->begin = walk->end = at;
    walk->last = 1;
    walk->object = walk->directory;
    walk->directory = -1;
    long result = identify(walk->object < 0 ? start : walk->object, &identity);
    if (result < 0)
        return end(walk, SL_WALK_ERROR, (int)-result);
    walk->device = identity.device;
    walk->inode = identity.inode;
    walk->mode = identity.mode;
    return end(walk, SL_WALK_END, 0);
}

static int look_at_start(int start, uint32_t flags, const struct sl_walk_mark *marks, uint32_t count, struct sl_walk *walk)
{
    struct identity identity;
    if (flags & SL_WALK_JUDGED)
        return 1;
    long result = identify(start, &identity);
    if (result < 0)
        return (int)end(walk, SL_WALK_ERROR, (int)-result);
    walk->device = identity.device;
    walk->inode = identity.inode;
    walk->mode = identity.mode;
    if (marked(&identity, marks, count) >= 0)
        return (int)end(walk, SL_WALK_MARK, 0);
    return 1;
}

long sl_walk(int start, const char *path, uint32_t length, uint32_t flags, const struct sl_walk_mark *marks,
             uint32_t count, void *result)
{
    struct sl_walk *walk = result;
    char name[LONGEST + 1];
    memset(walk, 0, sizeof *walk);
    walk->directory = walk->object = -1;
    if (!look_at_start(start, flags, marks, count, walk))
        return 0;
    for (uint32_t at = 0;;) {
        while (at < length && path[at] == '/')
            at++;
        if (at == length)
            return end_here(walk, start, at);
        walk->begin = at;
        while (at < length && path[at] != '/')
            at++;
        walk->end = at;
        uint32_t size = at - walk->begin, after = at;
        while (after < length && path[after] == '/')
            after++;
        walk->last = after == length;
        const char *component = path + walk->begin;
        int dot = size == 1 && component[0] == '.';
        int up = size == 2 && component[0] == '.' && component[1] == '.';
        if (walk->last && flags & SL_WALK_PARENT && (dot || up))
            return end(walk, SL_WALK_END, 0);
        if (dot) {
            if (walk->last)
                return end_here(walk, start, at);
            continue;
        }
        if (up && flags & SL_WALK_STOP_UP)
            return end(walk, SL_WALK_UP, 0);
        if (size > LONGEST)
            return end(walk, SL_WALK_ERROR, ENAMETOOLONG);
        memcpy(name, component, size);
        name[size] = 0;
        long object = step(walk->directory < 0 ? start : walk->directory, name, flags);
        if (object < 0) {
            int absent = object == -ENOENT && walk->last;
            return end(walk, absent ? SL_WALK_ABSENT : SL_WALK_ERROR, (int)-object);
        }
        walk->object = (int)object;
        if (!judge(walk, flags, after > at, marks, count))
            return 0;
    }
}

long sl_look(int fd, const struct sl_walk_mark *marks, uint32_t count, void *result)
{
    struct sl_walk *walk = result;
    struct identity identity;
    memset(walk, 0, sizeof *walk);
    walk->directory = -1;
    walk->object = fd;
    walk->last = 1;
    long error = identify(fd, &identity);
    if (error < 0) {
        walk->object = -1;
        return end(walk, SL_WALK_ERROR, (int)-error);
    }
    walk->device = identity.device;
    walk->inode = identity.inode;
    walk->mode = identity.mode;
    return end(walk, marked(&identity, marks, count) >= 0 ? SL_WALK_MARK : SL_WALK_END, 0);
}

long sl_find(int start, const char *path, uint32_t flags, const struct sl_walk_mark *marks, uint32_t count, void *result)
{
    struct sl_walk *walk = result;
    struct how how = {PATH_FD | O_CLOEXEC | (flags & SL_WALK_NO_FOLLOW ? O_NOFOLLOW : 0), 0,
                      RESOLVE_PLAIN | (flags & SL_WALK_CACHED ? RESOLVE_CACHED_ : 0)
                          | (flags & SL_WALK_BENEATH ? RESOLVE_BENEATH_ : 0)};
    while (*path == '/')
        path++;
    long object = RAW(__NR_openat2, start, *path ? path : ".", &how, sizeof how);
    if (object >= 0) {
        sl_look((int)object, marks, count, result);
        if (walk->outcome == SL_WALK_ERROR)
            drop((int)object);
        return 0;
    }
    memset(walk, 0, sizeof *walk);
    walk->directory = walk->object = -1;
    walk->last = 1;
    return end(walk, SL_WALK_ERROR, (int)-object);
}

static long climb(int start, const struct sl_walk_mark *marks, uint32_t count, int most, uint32_t flags)
{
    struct identity here, above;
    int at = -1;
    long result = identify(start, &here);
    for (int steps = 0; result >= 0 && steps < most; steps++) {
        long found = marked(&here, marks, count);
        if (found >= 0) {
            drop(at);
            return found;
        }
        result = step(at < 0 ? start : at, "..", flags);
        drop(at);
        at = -1;
        if (result < 0)
            break;
        at = (int)result;
        result = identify(at, &above);
        /* Only the root is its own parent. Two mounts may show one inode, one above the other. */
        if (result >= 0 && above.device == here.device && above.inode == here.inode && above.mount == here.mount)
            result = -ENOENT;
        here = above;
    }
    drop(at);
    return result < 0 ? result : -ELOOP;
}

long sl_climb(int start, const struct sl_walk_mark *marks, uint32_t count)
{
    return climb(start, marks, count, STEPS, 0);
}

long sl_climb_at_most(int start, const struct sl_walk_mark *marks, uint32_t count, int most)
{
    return climb(start, marks, count, most, SL_WALK_CACHED);
}
