#ifndef SANDLOCK_VIEW_H
#define SANDLOCK_VIEW_H

#include "spawn.h"

enum { SL_MAX_BINDS = 256 };

/* The parts of the view, in the order in which they are made; each returns 0, or -1 with the failure told. */

/* Cover a folder with its copy-on-write branch, before anything is read-only: list it among what stays writable. */
int sl_mount_branch(struct sl_spawn *spawn);

/* Take the sources of the binds, before anything is read-only; `trees` has room for SL_MAX_BINDS fds. */
int sl_open_binds(struct sl_spawn *spawn, int *trees);

/* Make the folder that is wanted the root; nothing of the old one can be reached then, but the host's /proc in its place
 * where the child is to mount its own: sl_finish_view takes that away. */
int sl_change_root(struct sl_spawn *spawn);

/* Put the binds where they are wanted in the new root; closes the fds. */
int sl_attach_binds(struct sl_spawn *spawn, int *trees);

/* Make the generated files, before anybody is in the pid namespace: its init writes some of them. */
int sl_make_overlays(struct sl_spawn *spawn);

/* Mount the pid namespace's own /proc, from inside it, lay the generated files over theirs, and add the Landlock rules
 * whose paths only now are what they will be. For who is in no Landlock domain that decides about files. */
int sl_finish_view(struct sl_spawn *spawn);

#endif
