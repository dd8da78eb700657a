#define _GNU_SOURCE /* O_PATH */

#include "landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "raw.h"

#ifndef __NR_landlock_create_ruleset /* the same numbers on every architecture, 5.13 */
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif

#define RULE_PATH_BENEATH 1 /* LANDLOCK_RULE_PATH_BENEATH, linux/landlock.h, 5.13 */
#define RULE_NET_PORT 2     /* LANDLOCK_RULE_NET_PORT, linux/landlock.h, 6.7 */

/* The rights that have a meaning for something that is not a directory; the kernel refuses any other on it (EINVAL). */
#define FILE_RIGHTS \
    ((1ULL << 0)    /* EXECUTE, 5.13 */ \
     | (1ULL << 1)  /* WRITE_FILE, 5.13 */ \
     | (1ULL << 2)  /* READ_FILE, 5.13 */ \
     | (1ULL << 14) /* TRUNCATE, 6.2 */ \
     | (1ULL << 15) /* IOCTL_DEV, 6.10 */ \
     | (1ULL << 16) /* RESOLVE_UNIX, 7.1 */)

/* struct landlock_path_beneath_attr and landlock_net_port_attr of linux/landlock.h */
struct path_beneath {
    uint64_t access;
    int32_t parent_fd;
} __attribute__((packed));

struct net_port {
    uint64_t access;
    uint64_t port;
};

_Static_assert(sizeof(struct sl_landlock_ruleset) == 24, "struct landlock_ruleset_attr, ABI 6");
_Static_assert(sizeof(struct path_beneath) == 12, "struct landlock_path_beneath_attr");
_Static_assert(sizeof(struct net_port) == 16, "struct landlock_net_port_attr");
_Static_assert(sizeof(struct sl_landlock_failure) == 16, "struct sl_landlock_failure");

long sl_landlock_query(uint32_t flags)
{
    return RAW(__NR_landlock_create_ruleset, 0, 0, flags);
}

long sl_landlock_create_ruleset(uint64_t handled_fs, uint64_t handled_net, uint64_t scoped)
{
    struct sl_landlock_ruleset ruleset = {handled_fs, handled_net, scoped};
    /* The smallest structure that says it all: a kernel that knows only the smaller one needs to know no more. */
    size_t size = scoped ? sizeof ruleset : handled_net ? offsetof(struct sl_landlock_ruleset, scoped)
                                                        : offsetof(struct sl_landlock_ruleset, handled_net);
    return RAW(__NR_landlock_create_ruleset, &ruleset, size, 0);
}

long sl_landlock_add_path_fd(int ruleset, int path_fd, uint64_t access)
{
    struct path_beneath rule = {access, path_fd};
    return RAW(__NR_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0);
}

/* Adds one rule. O_PATH opens nothing: a FIFO or a device is named, not touched, and no permission on it is needed. */
static long add_path(int ruleset, const char *path, uint64_t access, struct sl_landlock_failure *failure)
{
    struct stat status;
    failure->step = SL_LANDLOCK_STEP_OPEN;
    long fd = RAW(__NR_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0);
    if (fd < 0)
        return access & SL_LANDLOCK_OPTIONAL && (fd == -ENOENT || fd == -ENOTDIR || fd == -EACCES) ? 0 : fd;
    access &= ~SL_LANDLOCK_OPTIONAL;
    failure->step = SL_LANDLOCK_STEP_STAT;
    long result = RAW(__NR_fstat, fd, &status);
    if (result == 0) {
        failure->step = SL_LANDLOCK_STEP_ADD_RULE;
        result = sl_landlock_add_path_fd(ruleset, (int)fd, S_ISDIR(status.st_mode) ? access : access & FILE_RIGHTS);
    }
    RAW(__NR_close, fd);
    return result;
}

/* `paths` are `count` strings one after the other, each with its NUL; `accesses` are `count` uint64_t. Also called
 * between clone and exec: no libc call. */
long sl_landlock_add_paths(int ruleset, const char *paths, const void *accesses, size_t count,
                           struct sl_landlock_failure *failure)
{
    for (size_t index = 0; index < count; index++) {
        uint64_t access;
        memcpy(&access, (const char *)accesses + index * sizeof access, sizeof access);
        failure->index = index;
        long result = add_path(ruleset, paths, access, failure);
        if (result < 0)
            return result;
        while (*paths++)
            continue;
    }
    return 0;
}

/* All in one: the new ruleset's fd, or -errno and nothing left open. */
long sl_landlock_make_ruleset(uint64_t handled_fs, uint64_t handled_net, uint64_t scoped, const char *paths,
                              const void *accesses, size_t count, struct sl_landlock_failure *failure)
{
    failure->step = SL_LANDLOCK_STEP_CREATE;
    long ruleset = sl_landlock_create_ruleset(handled_fs, handled_net, scoped);
    if (ruleset < 0)
        return ruleset;
    long result = sl_landlock_add_paths((int)ruleset, paths, accesses, count, failure);
    if (result < 0)
        RAW(__NR_close, ruleset);
    return result < 0 ? result : ruleset;
}

long sl_landlock_add_port(int ruleset, uint64_t port, uint64_t access)
{
    struct net_port rule = {access, port};
    return RAW(__NR_landlock_add_rule, ruleset, RULE_NET_PORT, &rule, 0);
}

long sl_landlock_restrict_self(int ruleset, uint32_t flags)
{
    return RAW(__NR_landlock_restrict_self, ruleset, flags);
}

/* Makes a ruleset of one right and, where rules exist for it, one rule with it. */
long sl_landlock_try(int root, uint64_t fs, uint64_t net, uint64_t scope)
{
    long ruleset = sl_landlock_create_ruleset(fs, net, scope);
    if (ruleset < 0)
        return ruleset;
    long result = fs ? sl_landlock_add_path_fd((int)ruleset, root, fs)
                     : net ? sl_landlock_add_port((int)ruleset, 1, net) : 0;
    RAW(__NR_close, ruleset);
    return result;
}

/* Finds which rights this kernel takes, one by one: a backport may report a version without all of its rights. */
long sl_landlock_usable(struct sl_landlock_ruleset *masks)
{
    long root = RAW(__NR_openat, AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
    if (root < 0)
        return root;
    memset(masks, 0, sizeof *masks);
    for (unsigned bit = 0; bit < SL_LANDLOCK_FS_BITS; bit++)
        if (sl_landlock_try((int)root, 1ULL << bit, 0, 0) == 0)
            masks->handled_fs |= 1ULL << bit;
    for (unsigned bit = 0; bit < SL_LANDLOCK_NET_BITS; bit++)
        if (sl_landlock_try((int)root, 0, 1ULL << bit, 0) == 0)
            masks->handled_net |= 1ULL << bit;
    for (unsigned bit = 0; bit < SL_LANDLOCK_SCOPE_BITS; bit++)
        if (sl_landlock_try((int)root, 0, 0, 1ULL << bit) == 0)
            masks->scoped |= 1ULL << bit;
    RAW(__NR_close, root);
    return 0;
}
