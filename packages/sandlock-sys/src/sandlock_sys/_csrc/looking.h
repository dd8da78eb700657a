#ifndef SANDLOCK_LOOKING_H
#define SANDLOCK_LOOKING_H

#include <stdint.h>

#include "notif.h"
#include "shortcut.h"

enum { SL_TYPE = 0170000, SL_FOLDER = 0040000, SL_FILE = 0100000, SL_LINK = 0120000 }; /* linux/stat.h */

/* One request and what is known of it: shortcut.c finds the object, looking.c tells what it is. */
struct sl_call {
    struct sl_shortcut *shortcut;
    const struct sl_notif_request *request;
    const struct sl_shortcut_row *row;
    uint32_t flags;
    uint32_t find; /* SL_WALK_* */
    int object;    /* O_PATH fd; -1 when somebody else closes it */
    uint32_t mode;
    int in_branch;
    int shown;     /* as another one: */
    uint64_t device, inode;
};

/* 1: answered, or nobody waits for it any more. 0: nothing was done, which is what the others return as well. */
int sl_call_answer(const struct sl_call *call, int64_t value, long error);
int sl_call_goes_on(const struct sl_call *call); /* the kernel makes the call; for those that read no memory */
int sl_call_waits(const struct sl_call *call);

int sl_call_stat(const struct sl_call *call);
int sl_call_statx(const struct sl_call *call);
int sl_call_access(const struct sl_call *call);
int sl_call_readlink(const struct sl_call *call);

#endif
