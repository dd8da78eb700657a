/* The probe's part that makes namespaces: each in a process of its own, which ends with them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include "probe_attempt.h"
#include "raw.h"

#ifndef __NR_mount_setattr /* the same number on every architecture, 5.12 */
#define __NR_mount_setattr 442
#endif

#define ATTR_NOEXEC 8            /* MOUNT_ATTR_NOEXEC, linux/mount.h, 5.2 */
#define STATFS_RDONLY 1          /* ST_RDONLY, linux/statfs.h */
#define STATFS_NOEXEC 8          /* ST_NOEXEC */
#define STATFS_RELATIME 4096     /* ST_RELATIME; the other ones below have the number of their MS_ flag */
#define STATFS_KEPT (2 | 4 | 8 | 1024 | 2048) /* nosuid, nodev, noexec, noatime, nodiratime */

static long write_file(const char *path, const char *text, size_t size)
{
    long fd = RAW(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long result = RAW(__NR_write, fd, text, size);
    RAW(__NR_close, fd);
    return as_success(result);
}

/* Writes "ID ID 1", the map of one id to itself. */
static long write_map(const char *path, uint32_t id)
{
    char digits[10], text[32];
    size_t count = 0, size = 0;
    do
        digits[count++] = (char)('0' + id % 10);
    while (id /= 10);
    for (int twice = 0; twice < 2; twice++) {
        for (size_t digit = count; digit > 0; digit--)
            text[size++] = digits[digit - 1];
        text[size++] = ' ';
    }
    text[size++] = '1';
    return write_file(path, text, size);
}

static long map_ids(struct probe *probe)
{
    long result = write_file("/proc/self/setgroups", "deny", 4);
    if (result == 0)
        result = write_map("/proc/self/uid_map", probe->uid);
    return result ? result : write_map("/proc/self/gid_map", probe->gid);
}

static bool root_has(long flag)
{
    struct statfs status = {0};
    return RAW(__NR_statfs, "/", &status) == 0 && (status.f_flags & flag);
}

/* A mount namespace is worth something here if the root can be made read-only in it. */
static long make_mount_namespace(void)
{
    struct statfs status;
    long result = RAW(__NR_unshare, CLONE_NEWNS);
    if (result == 0) /* before anything else: no mount made here may travel back */
        result = RAW(__NR_mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0);
    if (result == 0)
        result = RAW(__NR_statfs, "/", &status);
    if (result)
        return result;
    /* Flags that the owner of the mount has set may not be taken away, so they are said again. */
    unsigned long kept = (unsigned long)status.f_flags & STATFS_KEPT;
    if (status.f_flags & STATFS_RELATIME)
        kept |= MS_RELATIME;
    result = RAW(__NR_mount, 0, "/", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | kept, 0);
    return result ? result : root_has(STATFS_RDONLY) ? 0 : -EOPNOTSUPP;
}

static long try_mount_setattr(void)
{
    uint64_t attributes[4] = {ATTR_NOEXEC}; /* struct mount_attr: set, clear, propagation, userns_fd */
    long result = RAW(__NR_mount_setattr, AT_FDCWD, "/", 0, attributes, sizeof attributes);
    return result ? result : root_has(STATFS_NOEXEC) ? 0 : -EOPNOTSUPP;
}

static int in_pid_namespace(void *argument)
{
    struct probe *probe = argument;
    TRY(FEATURE(PROC_MOUNT), RAW(__NR_mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
    return probe_leave();
}

static long try_overlay(void)
{
    static const char *const folders[] = {"/proc/lower", "/proc/upper", "/proc/work", "/proc/merged"};
    /* /proc is a directory that is always there; in this mount namespace nobody else sees what covers it. */
    long result = RAW(__NR_mount, "tmpfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700");
    for (size_t index = 0; result == 0 && index < LENGTH(folders); index++)
        result = RAW(__NR_mkdirat, AT_FDCWD, folders[index], 0700);
    return result ? result
                  : RAW(__NR_mount, "overlay", folders[3], "overlay", MS_NOSUID | MS_NODEV,
                        "lowerdir=/proc/lower,upperdir=/proc/upper,workdir=/proc/work,userxattr");
}

static void try_mounts(struct probe *probe)
{
    TRY(FEATURE(MOUNT_NAMESPACE), make_mount_namespace());
    if (*FEATURE(MOUNT_NAMESPACE) != 0)
        return;
    TRY(FEATURE(MOUNT_SETATTR), try_mount_setattr());
    if (todo(probe, FEATURE(PID_NAMESPACE))) {
        long first = probe_start(in_pid_namespace, probe->target_stack, CLONE_VM | CLONE_VFORK | CLONE_NEWPID, probe);
        if (first > 0) {
            *FEATURE(PID_NAMESPACE) = 0;
            if (probe_killed(first))
                probe_mark_killed(probe);
        } else {
            done(probe, FEATURE(PID_NAMESPACE), first);
        }
    }
    TRY(FEATURE(OVERLAY), try_overlay());
}

static int in_user_namespace(void *argument)
{
    struct probe *probe = argument;
    TRY(FEATURE(USER_NAMESPACE), map_ids(probe));
    if (*FEATURE(USER_NAMESPACE) == 0)
        try_mounts(probe);
    return probe_leave();
}

static int in_own_process(void *argument)
{
    try_mounts(argument);
    return probe_leave();
}

static void run_nested(struct probe *probe, int (*function)(void *), int flags, int32_t *slot)
{
    if (!todo(probe, slot))
        return;
    long pid = probe_start(function, probe->nested_stack, CLONE_VM | CLONE_VFORK | flags, probe);
    if (pid < 0)
        done(probe, slot, pid);
    else if (probe_killed(pid))
        probe_mark_killed(probe);
}

void probe_namespaces(struct probe *probe)
{
    run_nested(probe, in_user_namespace, CLONE_NEWUSER, FEATURE(USER_NAMESPACE));
    /* With the capability itself, a mount namespace needs no user namespace around it. */
    if (*FEATURE(USER_NAMESPACE) != 0)
        run_nested(probe, in_own_process, 0, FEATURE(MOUNT_NAMESPACE));
}
