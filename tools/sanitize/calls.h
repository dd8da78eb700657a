/* For tools/sanitize.py: included before each source of the extension. A sanitizer does not see what the kernel reads and
 * writes, so a system call's buffers are looked at before it is made. */
#ifndef SANDLOCK_SANITIZE_CALLS_H
#define SANDLOCK_SANITIZE_CALLS_H

#include "raw.h"

long sanitize_call(long number, long a, long b, long c, long d, long e, long f);

#undef RAW_ARGS
#define RAW_ARGS(nr, a, b, c, d, e, f, ...) \
    sanitize_call((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
