/* The sandbox's view of the file system, beyond what is read-only: another root, binds, a /proc of its own, generated
 * files. Runs between clone and exec: see child.c for what that forbids.
 */
#include "view.h"

#include <linux/fcntl.h>
#include <linux/mount.h>
#include <stdint.h>

#include "child.h"
#include "landlock.h"
#include "raw.h"

#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442 /* 5.12 */
#endif

/* Where the generated files are made: a folder that every root has which is to have a /proc. What is mounted there stays
 * below the namespace's /proc or is taken away again. */
#define STAGE "/proc"

enum {
    ERR_E2BIG = 7,
    TREE_RECURSIVE = 0x8000, /* AT_RECURSIVE, 5.2 */
    OVERLAY_MODE = 0444,
    UNMOUNT_DETACH = 2,      /* MNT_DETACH */
    PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC,
};

static int fail(struct sl_spawn *spawn, uint32_t step, long result, uint32_t detail)
{
    sl_fail(spawn, step, result, detail);
    return -1;
}

static long clone_tree(const char *path)
{
    return RAW(__NR_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | TREE_RECURSIVE);
}

static long attach(int tree, const char *path)
{
    return RAW(__NR_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
}

static long make_read_only(int tree)
{
    uint64_t change[4] = {MOUNT_ATTR_RDONLY}; /* struct mount_attr: set, clear, propagation, user namespace */
    return RAW(__NR_mount_setattr, tree, "", AT_EMPTY_PATH | TREE_RECURSIVE, change, sizeof change);
}

int sl_mount_branch(struct sl_spawn *spawn)
{
    if (!spawn->branch)
        return 0;
    /* The overlay has its own view of the upper folder's mount, so that one may become read-only afterwards. */
    long result = RAW(__NR_mount, "sandlock", spawn->branch, "overlay", MS_NOSUID | MS_NODEV, spawn->branch_options);
    return result < 0 ? fail(spawn, SL_STEP_BRANCH, result, 0) : 0;
}

int sl_open_binds(struct sl_spawn *spawn, int *trees)
{
    for (uint32_t index = 0; index < spawn->n_binds; index++) {
        long result = index < SL_MAX_BINDS ? clone_tree(spawn->binds[index].source) : -ERR_E2BIG;
        if (result < 0)
            return fail(spawn, SL_STEP_BIND, result, index);
        trees[index] = (int)result;
    }
    return 0;
}

int sl_attach_binds(struct sl_spawn *spawn, int *trees)
{
    for (uint32_t index = 0; index < spawn->n_binds; index++) {
        long result = spawn->binds[index].read_only ? make_read_only(trees[index]) : 0;
        if (result >= 0)
            result = attach(trees[index], spawn->binds[index].target);
        if (result < 0)
            return fail(spawn, SL_STEP_BIND, result, index);
        RAW(__NR_close, trees[index]);
    }
    return 0;
}

int sl_change_root(struct sl_spawn *spawn)
{
    if (!spawn->root)
        return 0;
    long result = clone_tree(spawn->root); /* only a mount can become the root */
    if (result < 0)
        return fail(spawn, SL_STEP_ROOT, result, 0);
    int tree = (int)result, proc = -1;
    /* In a user namespace a /proc can be mounted only where another one is in full view: the host's, until then. */
    if (spawn->flags & SL_SPAWN_PID_NS)
        result = proc = (int)clone_tree("/proc");
    if (result >= 0)
        result = attach(tree, spawn->root);
    if (result >= 0)
        result = RAW(__NR_fchdir, tree);
    if (result >= 0)
        result = RAW(__NR_pivot_root, ".", "."); /* the old root is on top of the new one then: pivot_root(2) */
    if (result >= 0)
        result = RAW(__NR_umount2, ".", UNMOUNT_DETACH);
    if (result >= 0)
        result = RAW(__NR_chdir, "/");
    if (result >= 0 && proc >= 0)
        result = attach(proc, "/proc");
    RAW(__NR_close, proc);
    RAW(__NR_close, tree);
    return result < 0 ? fail(spawn, SL_STEP_ROOT, result, 0) : 0;
}

/* "/proc/00": the name of a staged file, in `name` of 16 bytes. */
static const char *staged(char *name, uint32_t index)
{
    char *end = name;
    for (const char *from = STAGE "/"; *from; from++)
        *end++ = *from;
    *end++ = (char)('0' + index / 10);
    *end++ = (char)('0' + index % 10);
    *end = 0;
    return name;
}

static long write_staged(const char *name, const struct sl_overlay *overlay)
{
    long fd = RAW(__NR_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, OVERLAY_MODE);
    if (fd < 0)
        return fd;
    long result = 0;
    for (uint64_t done = 0; result >= 0 && done < overlay->bytes; done += (uint64_t)result)
        result = RAW(__NR_write, fd, overlay->content + done, overlay->bytes - done);
    RAW(__NR_close, fd);
    return result;
}

/* Makes the files in a tmpfs of their own, and takes a read-only mount of each. A memfd cannot be mounted. */
static int stage_overlays(struct sl_spawn *spawn, int *trees)
{
    char name[16];
    uint32_t index = 0;
    long result = RAW(__NR_mount, "sandlock", STAGE, "tmpfs", PLAIN, "mode=0755");
    for (; result >= 0 && index < spawn->n_overlays; index++) {
        result = index < SL_MAX_OVERLAYS ? write_staged(staged(name, index), &spawn->overlays[index]) : -ERR_E2BIG;
        if (result >= 0)
            result = clone_tree(name);
        if (result < 0)
            break;
        trees[index] = (int)result;
        result = make_read_only(trees[index]);
    }
    return result < 0 ? fail(spawn, SL_STEP_OVERLAY, result, index) : 0;
}

static int attach_overlays(struct sl_spawn *spawn, const int *trees)
{
    for (uint32_t index = 0; index < spawn->n_overlays; index++) {
        long result = attach(trees[index], spawn->overlays[index].target);
        if (result < 0)
            return fail(spawn, SL_STEP_OVERLAY, result, index);
        RAW(__NR_close, trees[index]);
    }
    return 0;
}

/* Nothing of the host's processes is in it. Read-only, as uid 0 may write /proc/sys without any capability; what a
 * program could write of its own there (comm, oom_score_adj) it can do without. */
static int mount_proc(struct sl_spawn *spawn)
{
    long result = RAW(__NR_mount, "proc", "/proc", "proc", PLAIN | MS_RDONLY, 0);
    return result < 0 ? fail(spawn, SL_STEP_PROC, result, 0) : 0;
}

static int add_rules(struct sl_spawn *spawn)
{
    struct sl_landlock_failure failure;
    long result = sl_landlock_add_paths(spawn->ruleset, spawn->rules, spawn->rule_accesses, spawn->n_rules, &failure);
    return result < 0 ? fail(spawn, SL_STEP_RULE, result, (uint32_t)failure.index) : 0;
}

int sl_finish_view(struct sl_spawn *spawn)
{
    int trees[SL_MAX_OVERLAYS];
    if (spawn->n_overlays && stage_overlays(spawn, trees))
        return -1;
    if (spawn->flags & SL_SPAWN_PID_NS) {
        if (mount_proc(spawn))
            return -1;
    } else if (spawn->n_overlays) {
        long result = RAW(__NR_umount2, STAGE, UNMOUNT_DETACH);
        if (result < 0)
            return fail(spawn, SL_STEP_OVERLAY, result, 0);
    }
    return attach_overlays(spawn, trees) || (spawn->n_rules && add_rules(spawn)) ? -1 : 0;
}
