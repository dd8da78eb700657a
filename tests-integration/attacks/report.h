/* One machine-readable line per attack: "NAME RESULT ERRNO", written by a raw write so that nothing else is needed. */
#ifndef REPORT_H
#define REPORT_H
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static inline long report(const char *name, long result)
{
    char line[256];
    int saved = result < 0 ? errno : 0;
    int length = snprintf(line, sizeof line, "%s %ld %d\n", name, result, saved);
    for (int done = 0; done < length;) {
        ssize_t wrote = write(1, line + done, (size_t)(length - done));
        if (wrote <= 0)
            _exit(120);
        done += (int)wrote;
    }
    errno = saved;
    return result;
}
#endif
