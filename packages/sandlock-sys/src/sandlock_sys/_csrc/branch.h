#ifndef SANDLOCK_BRANCH_H
#define SANDLOCK_BRANCH_H

#include <stddef.h>
#include <stdint.h>

#include "numbers.h"
#include "walk.h"

/* Names, each with a NUL behind it, and where they begin, in the order of their bytes. */
struct sl_names {
    const char *text;
    const uint32_t *at;
    uint32_t count;
};

/* A copy-on-write folder of the view: two directories of which the upper one hides the lower one. What follows `ended`
 * is changed by the thread that takes notifications alone. */
struct sl_branch {
    uint64_t begun;  /* operations on the branch, by whoever holds its lock: begun... */
    uint64_t ended;  /* ...and over; while they differ nothing is known */
    int32_t upper;   /* O_PATH; -1: there is no branch */
    int32_t lower;   /* -1: what is not in the upper layer is not looked up here */
    int32_t whole;   /* absolute paths start in it */
    int32_t starts;  /* whether paths are served that start in one of its directories */
    uint64_t upper_device;
    uint64_t lower_device;
    uint64_t *numbers;          /* of the upper layer's inodes: numbers.h */
    struct sl_walk_mark root;   /* by what a path gets into it */
    const char *upper_path;     /* what the kernel calls the two, no slash at the end */
    const char *lower_path;
    uint32_t upper_length;
    uint32_t lower_length;
    uint32_t folder_length;     /* of the upper path: the folder that holds all of the storage */
    uint32_t name_count;        /* components inside that are not served: */
    const char *names;
    uint32_t name_at[64];
};

/* Whether a component of `size` bytes is one of the names. */
int sl_name_in(const struct sl_names *names, const char *component, size_t size);

/* Offset of the first component of `path` that is one of the names, -1 for none; `end` behind it. */
long sl_name_first(const struct sl_names *names, const char *path, size_t *end);

/* The branch's state, to be compared by sl_branch_settled; -1: somebody changes it. */
int64_t sl_branch_begin(const struct sl_branch *branch);
int sl_branch_settled(const struct sl_branch *branch, int64_t state);

/* What is left of `path` below the branch, where its first component in `names` leads to the branch; NULL elsewhere. */
const char *sl_branch_enter(const struct sl_branch *branch, int start, const char *path, const struct sl_names *names,
                            const struct sl_walk_mark *marks, uint32_t count);

/* Write the branch's path for one that starts in the directory `start`; 1: done. 0: that lies elsewhere. -1: it is
 * inside, and cannot be told here. */
int sl_branch_from(const struct sl_branch *branch, int start, const char *path, char *whole, size_t room);

/* Write what an inode is shown as over its device and number; 1: those are others. That is so if the branch settled. */
int sl_branch_show(const struct sl_branch *branch, uint64_t *device, uint64_t *inode);

/* Whether what the fd stands for is, or was, in the upper layer: what is removed goes elsewhere in the storage. */
int sl_branch_holds(const struct sl_branch *branch, int fd);

/* Find what `path` leads to in the branch, as sl_find does; 1: that is so. 0: it has to be asked for elsewhere. */
int sl_branch_find(const struct sl_branch *branch, const char *path, uint32_t flags, const struct sl_walk_mark *marks,
                   uint32_t count, struct sl_walk *found);

#endif
