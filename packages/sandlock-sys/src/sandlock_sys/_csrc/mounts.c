/* The read-only view of the file system: what Landlock has no right for (mode, owner, times, attributes; before ABI 3
 * truncation, before ABI 5 the ioctls of devices) stays as it is outside the write grants. Runs between clone and exec: see child.c for what that forbids.
 */
#include "mounts.h"

#include <asm/stat.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <stdint.h>

#include "child.h"
#include "network.h"
#include "raw.h"
#include "view.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080 /* 5.6 */
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442 /* 5.12 */
#endif

enum {
    MAX_KEPT = 256, /* trees, writable and of devices */
    ERR_E2BIG = 7,
    ERR_EINVAL = 22,
    BOOT_CLOCK = 7, /* CLOCK_BOOTTIME */
    AT_TREE_RECURSIVE = 0x8000, /* AT_RECURSIVE, 5.2 */
    MOUNT_PRIVATE = 1 << 18,    /* MS_PRIVATE */
};

struct mount_attributes { /* struct mount_attr, 5.12 */
    uint64_t set;
    uint64_t clear;
    uint64_t propagation;
    uint64_t user_namespace;
};

_Static_assert(sizeof(struct mount_attributes) == 32, "MOUNT_ATTR_SIZE_VER0");

/* The time since boot is the time since now, in the namespace of what is executed from here (6.2; before that the clones
 * that share memory are refused, EINVAL, and the host asks again with SL_SPAWN_HOST_CLOCK). Clocks that measure spans stay
 * what they are. */
static long start_clock(void)
{
    struct { int64_t seconds, nanoseconds; } now;
    char digits[20], text[40] = "boottime -";
    int at = 10, count = 0;
    long result = RAW(__NR_clock_gettime, BOOT_CLOCK, &now);
    if (result < 0)
        return result;
    do
        digits[count++] = (char)('0' + now.seconds % 10);
    while (now.seconds /= 10);
    while (count)
        text[at++] = digits[--count];
    for (const char *end = " 0\n"; *end; end++)
        text[at++] = *end;
    return sl_write_line("/proc/self/timens_offsets", text);
}

static long unshare_all(struct sl_spawn *spawn, int *timed)
{
    unsigned long flags = (spawn->flags & SL_SPAWN_MOUNT_NS ? CLONE_NEWNS : 0)
                          | (spawn->flags & SL_SPAWN_USER_NS ? CLONE_NEWUSER : 0)
                          | (spawn->flags & SL_SPAWN_PID_NS ? CLONE_NEWPID : 0) | (spawn->hostname ? CLONE_NEWUTS : 0);
    *timed = (spawn->flags & (SL_SPAWN_PID_NS | SL_SPAWN_HOST_CLOCK)) == SL_SPAWN_PID_NS;
    long result = RAW(__NR_unshare, flags | (*timed ? CLONE_NEWTIME : 0));
    if (result != -ERR_EINVAL || !*timed)
        return result;
    *timed = 0; /* a kernel before 5.6, or built without: the time since boot hides nobody, so do without */
    return RAW(__NR_unshare, flags);
}

static int enter_namespaces(struct sl_spawn *spawn)
{
    int timed;
    if (spawn->flags & SL_SPAWN_NET_NS && sl_enter_network(spawn))
        return -1;
    long result = unshare_all(spawn, &timed);
    if (result < 0) {
        sl_fail(spawn, SL_STEP_NAMESPACE, result, 0);
        return -1;
    }
    if (spawn->flags & SL_SPAWN_USER_NS && sl_map_ids(spawn, spawn->uid_map, spawn->gid_map))
        return -1;
    result = timed ? start_clock() : 0;
    if (result < 0) {
        sl_fail(spawn, SL_STEP_CLOCK, result, 0);
        return -1;
    }
    return 0;
}

static int name_host(struct sl_spawn *spawn)
{
    long result = spawn->hostname ? RAW(__NR_sethostname, spawn->hostname, spawn->hostname_bytes) : 0;
    if (result < 0) {
        sl_fail(spawn, SL_STEP_HOSTNAME, result, 0);
        return -1;
    }
    return 0;
}

static long set_mounts(uint64_t attributes, uint64_t propagation)
{
    struct mount_attributes change = {.set = attributes, .propagation = propagation};
    return RAW(__NR_mount_setattr, AT_FDCWD, "/", AT_TREE_RECURSIVE, &change, sizeof change);
}

/* Whether the tree is one of the whole root: a mount over `/` would stay under the root that the child has already. */
static int is_root(int tree)
{
    struct stat root, status;
    return !RAW(__NR_newfstatat, AT_FDCWD, "/", &root, 0) && !RAW(__NR_newfstatat, tree, "", &status, AT_EMPTY_PATH)
           && root.st_dev == status.st_dev && root.st_ino == status.st_ino;
}

static int close_all(const int *trees, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++)
        RAW(__NR_close, trees[index]);
    return 0;
}

/* Clone the trees that keep what the rest loses; returns 0, 1 where one is the whole root, or -errno. `count` is how many
 * were cloned, and with an error which one failed. */
static long clone_kept(const char *const *paths, int *trees, uint32_t *count)
{
    for (uint32_t index = 0; paths && paths[index]; index++) {
        if (*count == MAX_KEPT)
            return -ERR_E2BIG;
        long result = RAW(__NR_open_tree, AT_FDCWD, paths[index],
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_TREE_RECURSIVE);
        if (result < 0)
            return result;
        trees[(*count)++] = (int)result;
        if (is_root((int)result))
            return 1;
    }
    return 0;
}

/* A grant may be a link: its target was cloned, so its target is covered. */
static long attach_kept(int tree, const char *path)
{
    long result = RAW(__NR_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
    RAW(__NR_close, tree);
    return result;
}

/* All but the grants. Through a read-only mount a device is written all the same, so those of devices are read-only too. */
static int make_read_only(struct sl_spawn *spawn)
{
    struct mount_attributes only_read = {.set = MOUNT_ATTR_RDONLY};
    int trees[MAX_KEPT];
    uint32_t count = 0, grants, index;
    long result = clone_kept(spawn->writable, trees, &count);
    if (result > 0)
        return close_all(trees, count); /* everything is granted, so nothing is to be read-only */
    grants = index = count;
    if (result < 0)
        goto failed;
    result = clone_kept(spawn->devices, trees, &count);
    index = count;
    if (result < 0)
        goto failed;
    index = count + 1; /* names no path: the failing step is the whole tree */
    result = set_mounts(MOUNT_ATTR_RDONLY | (spawn->devices ? MOUNT_ATTR_NODEV : 0), 0);
    if (result < 0)
        goto failed;
    for (index = grants; index < count; index++) { /* first: a writable place may be below one of these */
        result = RAW(__NR_mount_setattr, trees[index], "", AT_EMPTY_PATH | AT_TREE_RECURSIVE, &only_read, sizeof only_read);
        if (result >= 0)
            result = attach_kept(trees[index], spawn->devices[index - grants]);
        if (result < 0)
            goto failed;
    }
    for (index = 0; index < grants; index++) {
        result = attach_kept(trees[index], spawn->writable[index]);
        if (result < 0)
            goto failed;
    }
    return 0;
failed:
    sl_fail(spawn, SL_STEP_MOUNT, result, index);
    return -1;
}

int sl_enter_namespaces(struct sl_spawn *spawn)
{
    int binds[SL_MAX_BINDS];
    if (enter_namespaces(spawn) || name_host(spawn))
        return -1;
    if (!(spawn->flags & SL_SPAWN_MOUNT_NS))
        return 0;
    long result = set_mounts(0, MOUNT_PRIVATE); /* before anything changes: nothing may travel back to the host */
    if (result < 0) {
        sl_fail(spawn, SL_STEP_MOUNT, result, ~0U);
        return -1;
    }
    if (sl_mount_branch(spawn) || sl_open_binds(spawn, binds))
        return -1;
    if (spawn->writable && make_read_only(spawn))
        return -1;
    return sl_change_root(spawn) || sl_attach_binds(spawn, binds) ? -1 : 0;
}
