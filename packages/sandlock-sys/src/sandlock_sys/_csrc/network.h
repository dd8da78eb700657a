#ifndef SANDLOCK_NETWORK_H
#define SANDLOCK_NETWORK_H

#include "spawn.h"

/* Enter a network namespace with nothing in it: the one that the host lends, if it is as empty as a new one, or a new one.
 * Where user namespaces are needed, it belongs to one of its own around the run's, so that a later run can enter it without
 * meeting this one. For who still has the host's credentials. 0, or -1 with the failure told. */
int sl_enter_network(struct sl_spawn *spawn);

/* In the host: take what the guard sent through the control socket, as `network_sent` tells, into fds[0] (the namespace) and,
 * with SL_SPAWN_USER_NS, fds[1] (its user namespace). They are above the standard streams. */
void sl_network_receive(int control, int32_t *fds);

/* Write the id maps of the user namespace that the caller has just made. 0, or -1 with the failure told. */
int sl_map_ids(struct sl_spawn *spawn, const char *uid_map, const char *gid_map);

/* Write a line into a file that is there. 0 or -errno. */
long sl_write_line(const char *path, const char *text);

#endif
