#ifndef SANDLOCK_SHORTCUT_H
#define SANDLOCK_SHORTCUT_H

#include <stdint.h>

#include "branch.h"
#include "notif.h"
#include "walk.h"

enum { SL_SHORTCUT_ROWS = 16, SL_SHORTCUT_NAMES = 64 };

/* What a call does with the object that its path leads to. */
enum sl_shortcut_kind {
    SL_SHORTCUT_STAT = 1,     /* struct stat to `value` */
    SL_SHORTCUT_STATX = 2,    /* struct statx to `value`; the mask is the argument before */
    SL_SHORTCUT_ACCESS = 3,   /* checks the mode `value` */
    SL_SHORTCUT_READLINK = 4, /* the link's text to `value`; the size is the argument behind */
    SL_SHORTCUT_OPEN = 5,     /* opens it in the deputy; `value` is not used */
    SL_SHORTCUT_CONNECT = 6,  /* these two lead to sockets: see destinations.h */
    SL_SHORTCUT_SENDTO = 7,
};

/* How one system call is read: the numbers of its arguments. */
struct sl_shortcut_row {
    int32_t number; /* of the system call */
    int32_t kind;   /* enum sl_shortcut_kind */
    int32_t at;     /* directory fd; -1: the path starts in the working directory */
    int32_t path;   /* -1: it is about the fd itself */
    int32_t value;  /* see the kind */
    int32_t flags;  /* -1: it has none, and means `fixed` */
    int32_t fixed;
    uint64_t served; /* so far, of this row */
};

/* What a path must not touch if it is to be served here. Only the thread that takes notifications changes it, and not
 * while it takes one; but any thread may set `stale`. */
struct sl_shortcut {
    int32_t stale;         /* nothing is served until this is 0 */
    int32_t listener;
    uint32_t arch;         /* AUDIT_ARCH_* */
    int32_t privileged;    /* capabilities are given up while files are looked at */
    int32_t root;          /* O_PATH, where absolute paths start; -1: they are not served */
    int32_t relative;      /* whether paths that start elsewhere are served */
    uint32_t left;         /* requests that may still be served before the caller has to look at other things */
    uint32_t row_count;
    uint32_t mark_count;
    uint32_t closed_count;
    uint32_t denied_count;
    uint32_t fence_count;
    uint32_t prompt_count;
    uint32_t name_count;
    int64_t until_ns;      /* and until when (CLOCK_MONOTONIC); 0: no bound */
    int64_t wait_ns;       /* how long the next request is waited for after one that was served here */
    int64_t blocked_ns;    /* a deputy that is in one call for longer gets no further one */
    uint64_t served;       /* so far */
    const void *marks;     /* of struct sl_walk_mark, sorted: objects that are not served, whatever their name is */
    const void *closed;    /* likewise: no path may start at one of these */
    const void *denied;    /* likewise: no path may start below one of these */
    const void *fence;     /* likewise: where there are any, a path may start only below one of these */
    const void *prompt;    /* devices, with 0 as inode: file systems that ask nobody; what lies on others is not looked at */
    const char *names;     /* components by which marked objects are reached, each with a NUL behind it */
    struct sl_deputy *deputy; /* NULL: nothing is opened */
    struct sl_destinations *destinations; /* NULL: nobody is reached */
    struct sl_branch branch;
    struct sl_shortcut_row rows[SL_SHORTCUT_ROWS];
    uint32_t name_at[SL_SHORTCUT_NAMES]; /* offsets into `names`, in the order of the names' bytes */
};

/* Whether this thread may do what a call asks of an object on this device; an open is the deputy's, who may wait. */
static inline int sl_prompt(const struct sl_shortcut *shortcut, int kind, uint64_t device)
{
    return kind == SL_SHORTCUT_OPEN || sl_has_device(device, shortcut->prompt, shortcut->prompt_count);
}

/* Serves one request about a file: 1: it is answered, or somebody will answer it. 0: nothing was done. */
int sl_shortcut_file(struct sl_shortcut *shortcut, const struct sl_notif_request *request, const struct sl_shortcut_row *row);

/* As sl_notif_next and sl_notif_exchange, but requests that touch nothing special are served here, without an answer
 * of the caller's. 0 as well when `left` became 0. */
long sl_shortcut_next(struct sl_shortcut *shortcut, void *request, int64_t wait_ns);
/* Whether a request that was received may be one for the shortcut; where this is so, sl_shortcut_go_on serves it as if it
 * had been received by sl_shortcut_next. */
int sl_shortcut_knows(const struct sl_shortcut *shortcut, const void *request);
long sl_shortcut_go_on(struct sl_shortcut *shortcut, void *request);
long sl_shortcut_exchange(struct sl_shortcut *shortcut, uint64_t id, int64_t value, int32_t error, uint32_t flags,
                          void *request, int64_t wait_ns);

#endif
