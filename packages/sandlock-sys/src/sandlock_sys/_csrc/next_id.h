#ifndef SANDLOCK_NEXT_ID_H
#define SANDLOCK_NEXT_ID_H

#include <stddef.h>

long sl_set_last_id(int user_ns, int pid_ns, const char *digits, size_t length);

#endif
