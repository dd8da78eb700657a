#ifndef SANDLOCK_MOUNTS_H
#define SANDLOCK_MOUNTS_H

#include "spawn.h"

/* Enter a mount namespace, and a user namespace where that takes one, and make everything there read-only but the
 * write grants. Done by the guard, before it enters its Landlock domain, which may not mount; the child inherits it.
 * 0, or -1 with the failure told. */
int sl_enter_mounts(struct sl_spawn *spawn);

#endif
