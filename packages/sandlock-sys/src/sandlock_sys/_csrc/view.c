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

/* Where the namespace's /proc goes, and where the generated files are made before: a folder that every root has which is
 * to have a /proc. It is looked up once. Whoever may write in the root could make another name's link of it meanwhile,
 * and what is to be covered or taken away again would stay in view elsewhere. */
#define PLACE "/proc"

enum {
    ERR_E2BIG = 7,
    CONFIG_SET_FLAG = 0, /* FSCONFIG_SET_FLAG, 5.2 */
    CONFIG_CREATE = 6,   /* FSCONFIG_CMD_CREATE, 5.2 */
    MOUNT_CLOEXEC = 1,   /* FSMOUNT_CLOEXEC, 5.2 */
    TREE_RECURSIVE = 0x8000, /* AT_RECURSIVE, 5.2 */
    OVERLAY_MODE = 0444,
    DUPLICATE_ABOVE = 1030, /* F_DUPFD_CLOEXEC */
    LIVE_FD_FIRST = 3,
    UNMOUNT_DETACH = 2,      /* MNT_DETACH */
    PLAIN = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
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

static long attach_at(int tree, int place)
{
    return RAW(__NR_move_mount, tree, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static long open_place(void)
{
    return RAW(__NR_openat, AT_FDCWD, PLACE, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
}

/* Take away what is on top at the place. Without a root of its own the child keeps the caller's folder, and the name is
 * the host's. */
static long detach(struct sl_spawn *spawn, int place)
{
    if (!spawn->root)
        return RAW(__NR_umount2, PLACE, UNMOUNT_DETACH);
    long result = RAW(__NR_fchdir, place);
    if (result >= 0)
        result = RAW(__NR_umount2, ".", UNMOUNT_DETACH);
    long back = RAW(__NR_chdir, "/");
    return result < 0 ? result : back;
}

/* A mount of a new file system, attached nowhere. `flag` is an option of the superblock, or NULL. */
static long new_mount(const char *type, const char *flag, unsigned attributes)
{
    long context = RAW(__NR_fsopen, type, MOUNT_CLOEXEC); /* FSOPEN_CLOEXEC is the same bit */
    if (context < 0)
        return context;
    long result = flag ? RAW(__NR_fsconfig, context, CONFIG_SET_FLAG, flag, 0, 0) : 0;
    if (result >= 0)
        result = RAW(__NR_fsconfig, context, CONFIG_CREATE, 0, 0, 0);
    if (result >= 0)
        result = RAW(__NR_fsmount, context, MOUNT_CLOEXEC, attributes);
    RAW(__NR_close, context);
    return result;
}

static long make_read_only(int tree, uint64_t more)
{
    uint64_t change[4] = {MOUNT_ATTR_RDONLY | more}; /* struct mount_attr: set, clear, propagation, user namespace */
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
        uint64_t kind = spawn->binds[index].read_only, devices = kind == SL_BIND_NO_DEVICES ? MOUNT_ATTR_NODEV : 0;
        long result = kind != SL_BIND_WRITABLE ? make_read_only(trees[index], devices) : 0;
        if (result >= 0)
            result = attach(trees[index], spawn->binds[index].target);
        if (result < 0)
            return fail(spawn, SL_STEP_BIND, result, index);
        RAW(__NR_close, trees[index]);
    }
    return 0;
}

/* The host's /proc, in the new root until the namespace's own can be mounted: mount_proc takes it away again. */
static int lend_proc(struct sl_spawn *spawn, int proc)
{
    long result = open_place();
    if (result >= 0) {
        spawn->place = (int32_t)result;
        result = attach_at(proc, spawn->place);
    }
    RAW(__NR_close, proc);
    return result < 0 ? fail(spawn, SL_STEP_PROC, result, 0) : 0;
}

int sl_change_root(struct sl_spawn *spawn)
{
    spawn->place = -1;
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
    RAW(__NR_close, tree);
    if (result < 0)
        return fail(spawn, SL_STEP_ROOT, result, 0);
    return proc < 0 ? 0 : lend_proc(spawn, proc);
}

/* An fd that no standard stream and no fixed number of the guard's or init's is put over. */
static long above_streams(long fd)
{
    long moved = fd < 0 ? fd : RAW(__NR_fcntl, fd, DUPLICATE_ABOVE, LIVE_FD_FIRST);
    if (fd >= 0)
        RAW(__NR_close, fd);
    return moved;
}

static long write_staged(struct sl_spawn *spawn, int stage, const char *name, const struct sl_overlay *overlay)
{
    long fd = above_streams(RAW(__NR_openat, stage, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, OVERLAY_MODE));
    if (fd < 0)
        return fd;
    long result = 0;
    for (uint64_t done = 0; result >= 0 && done < overlay->bytes; done += (uint64_t)result)
        result = RAW(__NR_write, fd, overlay->content + done, overlay->bytes - done);
    if (result >= 0 && overlay->live)
        spawn->live[overlay->live - 1] = (int32_t)fd;
    else
        RAW(__NR_close, fd);
    return result;
}

/* Makes the files in a tmpfs of their own, and takes a read-only mount of each. A memfd cannot be mounted, and a mount
 * that is attached nowhere cannot be cloned. */
static int stage_overlays(struct sl_spawn *spawn, int place)
{
    int32_t *trees = spawn->overlays_made;
    uint32_t index = 0;
    long stage = new_mount("tmpfs", 0, PLAIN);
    long result = stage < 0 ? stage : attach_at((int)stage, place);
    if (result < 0)
        return fail(spawn, SL_STEP_OVERLAY, result, 0);
    uint32_t empty = spawn->n_overlays; /* the first without content: one file is enough for all of them */
    for (; index < spawn->n_overlays; index++) {
        const struct sl_overlay *overlay = &spawn->overlays[index];
        int again = empty < index && !overlay->bytes && !overlay->live;
        uint32_t file = again ? empty : index;
        const char name[] = {(char)('0' + file / 10), (char)('0' + file % 10), 0};
        result = index >= SL_MAX_OVERLAYS ? -ERR_E2BIG : again ? 0 : write_staged(spawn, (int)stage, name, overlay);
        if (result >= 0)
            result = RAW(__NR_open_tree, stage, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (result < 0)
            break;
        trees[index] = (int)result;
        result = make_read_only(trees[index], 0);
        if (result < 0)
            break;
        if (empty > index && !overlay->bytes && !overlay->live)
            empty = index;
    }
    RAW(__NR_close, stage);
    if (result >= 0)
        result = detach(spawn, place);
    return result < 0 ? fail(spawn, SL_STEP_OVERLAY, result, index) : 0;
}

static int attach_overlays(struct sl_spawn *spawn)
{
    for (uint32_t index = 0; index < spawn->n_overlays; index++) {
        long result = attach(spawn->overlays_made[index], spawn->overlays[index].target);
        if (result < 0)
            return fail(spawn, SL_STEP_OVERLAY, result, index);
        RAW(__NR_close, spawn->overlays_made[index]);
    }
    return 0;
}

/* Nothing of the host's processes is in it. Read-only, as uid 0 may write /proc/sys without any capability; what a
 * program could write of its own there (comm, oom_score_adj) it can do without. */
static int mount_proc(struct sl_spawn *spawn, int place)
{
    long proc = new_mount("proc", "ro", PLAIN | MOUNT_ATTR_RDONLY);
    long result = proc;
    if (result >= 0 && spawn->root)
        result = detach(spawn, place); /* the host's, which had to be in view until here */
    if (result >= 0)
        result = attach_at((int)proc, place);
    if (proc >= 0)
        RAW(__NR_close, proc);
    return result < 0 ? fail(spawn, SL_STEP_PROC, result, 0) : 0;
}

/* Until init has its own name. The kernel tells of an exec before the old memory is gone, and in that moment /proc/1 shows
 * the host's command line; after its exec init has still to make itself undumpable, which it does before it takes the name. */
static void wait_for_init(void)
{
    const struct { int64_t seconds, nanoseconds; } pause = {0, 50 * 1000};
    const char wanted[] = "sandlock-init";
    for (;;) {
        char name[sizeof wanted] = {0};
        long fd = RAW(__NR_openat, AT_FDCWD, PLACE "/1/comm", O_RDONLY | O_CLOEXEC, 0);
        long got = fd < 0 ? fd : RAW(__NR_read, fd, name, sizeof name - 1);
        unsigned int same = 0;
        if (fd >= 0)
            RAW(__NR_close, fd);
        while (same < sizeof name - 1 && name[same] == wanted[same])
            same++;
        if (got <= 0 || same == sizeof name - 1)
            return; /* it is ready; or it is gone, and this process goes with it */
        RAW(__NR_nanosleep, &pause, 0);
    }
}

static int add_rules(struct sl_spawn *spawn)
{
    struct sl_landlock_failure failure;
    long result = sl_landlock_add_paths(spawn->ruleset, spawn->rules, spawn->rule_accesses, spawn->n_rules, &failure);
    return result < 0 ? fail(spawn, SL_STEP_RULE, result, (uint32_t)failure.index) : 0;
}

int sl_make_overlays(struct sl_spawn *spawn)
{
    if (!spawn->n_overlays)
        return 0;
    int lent = spawn->root && spawn->flags & SL_SPAWN_PID_NS;
    long place = lent ? spawn->place : open_place();
    if (place < 0)
        return fail(spawn, SL_STEP_OVERLAY, place, 0);
    int result = stage_overlays(spawn, (int)place);
    if (!lent)
        RAW(__NR_close, place);
    return result;
}

int sl_finish_view(struct sl_spawn *spawn)
{
    if (spawn->flags & SL_SPAWN_PID_NS) {
        long place = spawn->root ? spawn->place : open_place();
        if (place < 0)
            return fail(spawn, SL_STEP_PROC, place, 0);
        if (mount_proc(spawn, (int)place))
            return -1;
        RAW(__NR_close, place);
        wait_for_init();
    }
    return attach_overlays(spawn) || (spawn->n_rules && add_rules(spawn)) ? -1 : 0;
}
