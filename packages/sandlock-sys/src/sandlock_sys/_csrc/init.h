#ifndef SANDLOCK_INIT_H
#define SANDLOCK_INIT_H

/* The first process of the sandbox's pid namespace: becomes the guard program, as its init (guard_init.h). Cloned by the
 * guard; never returns. `argument` is a struct sl_spawn. */
int sl_init_main(void *argument);

#endif
