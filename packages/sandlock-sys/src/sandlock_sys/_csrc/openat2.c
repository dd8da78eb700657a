#include "openat2.h"

#include <errno.h>
#include <fcntl.h>

#include "raw.h"

#ifndef __NR_openat2
#define __NR_openat2 437 /* the same number on every architecture, 5.6 */
#endif

_Static_assert(sizeof(struct sl_open_how) == 24, "struct open_how, version 0");

enum {
    SL_RESOLVE_SCOPED = 0x08 | 0x10, /* BENEATH and IN_ROOT, linux/openat2.h */
    SL_RESOLVE_CACHED = 0x20,
    TRIES = 256, /* renames and mounts of the whole machine go on meanwhile: some try finds a quiet moment */
};

long sl_openat2(int directory, const char *path, const struct sl_open_how *how)
{
    /* EAGAIN means that a rename somewhere raced with a `..`; with the other flags it has a meaning of its own. */
    int again = (how->resolve & SL_RESOLVE_SCOPED) && !(how->resolve & SL_RESOLVE_CACHED) && !(how->flags & O_NONBLOCK);
    long fd = -EAGAIN;
    for (int tries = again ? TRIES : 1; fd == -EAGAIN && tries > 0; tries--)
        fd = RAW(__NR_openat2, directory, path, how, sizeof *how);
    return fd;
}
