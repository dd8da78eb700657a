#ifndef SANDLOCK_LANDLOCK_H
#define SANDLOCK_LANDLOCK_H

#include <stddef.h>
#include <stdint.h>

/* struct landlock_ruleset_attr of linux/landlock.h: 8 bytes in 5.13, 16 in 6.7, 24 in 6.12. */
struct sl_landlock_ruleset {
    uint64_t handled_fs;
    uint64_t handled_net;
    uint64_t scoped;
};

/* Where sl_landlock_add_paths() stopped. */
struct sl_landlock_failure {
    uint64_t index; /* of the rule */
    uint32_t step;  /* SL_LANDLOCK_STEP_* */
    uint32_t unused;
};

enum { SL_LANDLOCK_STEP_OPEN = 1, SL_LANDLOCK_STEP_STAT = 2, SL_LANDLOCK_STEP_ADD_RULE = 3, SL_LANDLOCK_STEP_CREATE = 4 };

/* In a rule's rights: a path that is not there, or cannot be reached, is left out. No right has this bit. */
#define SL_LANDLOCK_OPTIONAL (1ULL << 63)

#define SL_LANDLOCK_FS_BITS 17
#define SL_LANDLOCK_NET_BITS 4
#define SL_LANDLOCK_SCOPE_BITS 2

long sl_landlock_query(uint32_t flags);
long sl_landlock_try(int root, uint64_t fs, uint64_t net, uint64_t scope);
long sl_landlock_usable(struct sl_landlock_ruleset *masks);
long sl_landlock_create_ruleset(uint64_t handled_fs, uint64_t handled_net, uint64_t scoped);
long sl_landlock_add_path_fd(int ruleset, int path_fd, uint64_t access);
long sl_landlock_add_paths(int ruleset, const char *paths, const void *accesses, size_t count,
                           struct sl_landlock_failure *failure);
long sl_landlock_make_ruleset(uint64_t handled_fs, uint64_t handled_net, uint64_t scoped, const char *paths,
                              const void *accesses, size_t count, struct sl_landlock_failure *failure);
long sl_landlock_add_port(int ruleset, uint64_t port, uint64_t access);
long sl_landlock_restrict_self(int ruleset, uint32_t flags);

#endif
