#ifndef SANDLOCK_MOUNTS_H
#define SANDLOCK_MOUNTS_H

#include "spawn.h"

/* Enter the namespaces that are wanted, name the host, make everything read-only but the write grants, change the root
 * and bind. Done by the guard, before it enters its Landlock domain, which may not mount; its children inherit it, and
 * are in its pid namespace, which the guard itself is not. 0, or -1 with the failure told. */
int sl_enter_namespaces(struct sl_spawn *spawn);

#endif
