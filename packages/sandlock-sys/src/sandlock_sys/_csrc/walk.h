#ifndef SANDLOCK_WALK_H
#define SANDLOCK_WALK_H

#include <stdint.h>

/* Where a walk along a path ended. */
enum sl_walk_outcome {
    SL_WALK_END = 0,    /* at the last component */
    SL_WALK_ABSENT = 1, /* the last component is not there; its directory is */
    SL_WALK_LINK = 2,   /* at a symlink that has to be followed */
    SL_WALK_MARK = 3,   /* at an object whose identity is marked */
    SL_WALK_UP = 4,     /* before `..`, with SL_WALK_STOP_UP */
    SL_WALK_ERROR = 5,  /* `error` says why; EAGAIN with SL_WALK_CACHED: the kernel would have to ask a disk */
};

enum {
    SL_WALK_NO_FOLLOW = 1,   /* a symlink as the last component is the end */
    SL_WALK_JUDGED = 2,      /* the start has been looked at: its mark does not stop */
    SL_WALK_CACHED = 4,      /* never wait for a file system */
    SL_WALK_STOP_UP = 8,     /* `..` is the caller's */
    SL_WALK_PARENT = 16,     /* the last component names what will be made or removed: `.` and `..` and slashes after
                                it are left in place, a symlink is not followed */
    SL_WALK_BENEATH = 32,    /* of sl_find: ERROR with EXDEV where `..` leads above the start */
};

/* An identity; tables of them are sorted by device, then inode. */
struct sl_walk_mark {
    uint64_t device;
    uint64_t inode;
};

struct sl_walk {
    int32_t directory;  /* O_PATH, the caller's: what holds the object; -1: the start itself does, or nothing is held */
    int32_t object;     /* O_PATH, the caller's: the object; -1: none, or it is the start itself */
    uint32_t outcome;   /* enum sl_walk_outcome */
    int32_t error;      /* errno, with SL_WALK_ERROR */
    uint32_t begin;       /* offset of the component that the walk ended at */
    uint32_t end;         /* offset behind it; equal to `begin` when no component names the object */
    uint64_t device;    /* identity of the object, when there is one */
    uint64_t inode;
    uint32_t mode;
    uint32_t last;      /* nothing but slashes follows */
};

/* Walk from the directory `start` along `path` (`length` bytes, then a NUL), never through a symlink. The result goes
 * into `walk`, a struct sl_walk. */
long sl_walk(int start, const char *path, uint32_t length, uint32_t flags, const struct sl_walk_mark *marks,
             uint32_t count, void *walk);

/* Find what `path` leads to in one step of the kernel's, never through a symlink, with SL_WALK_CACHED,
 * SL_WALK_NO_FOLLOW and SL_WALK_BENEATH. What it went through is not looked at: `path` has to be one that cannot go through a marked object
 * but at its end. ERROR with ELOOP where a symlink has to be followed. */
long sl_find(int start, const char *path, uint32_t flags, const struct sl_walk_mark *marks, uint32_t count, void *walk);

/* Look at the object of an fd, which stays the caller's: END, or MARK, or ERROR. */
long sl_look(int fd, const struct sl_walk_mark *marks, uint32_t count, void *walk);

/* Whether a device is one of `devices`, sorted, whose inodes are 0. */
int sl_has_device(uint64_t device, const struct sl_walk_mark *devices, uint32_t count);

/* Go from the directory `start` up until an object is marked (its index), or the root (-ENOENT), at most 4096 steps. */
long sl_climb(int start, const struct sl_walk_mark *marks, uint32_t count);

/* As sl_climb, at most `most` steps, and without asking a file system; -ELOOP or -EAGAIN when that does not tell. */
long sl_climb_at_most(int start, const struct sl_walk_mark *marks, uint32_t count, int most);

#endif
