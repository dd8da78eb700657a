/* Finding a sandbox's processes without a Landlock signal scope (before 6.12): a walk over /proc.
 * Only the guard program includes it; the table is too large for a launch's stack. */
#ifndef SANDLOCK_GUARD_WALK_H
#define SANDLOCK_GUARD_WALK_H

#include <linux/fcntl.h>
#include <stddef.h>
#include <stdint.h>

#include "raw.h"

enum { MAX_PROCESSES = 1 << 15 };

struct directory_entry { uint64_t inode; int64_t offset; uint16_t length; uint8_t type; char name[]; };

static struct process { int pid, parent; char ours; } table[MAX_PROCESSES];

static int number(const char *text)
{
    int value = 0;
    while (*text >= '0' && *text <= '9')
        value = value * 10 + (*text++ - '0');
    return value;
}

static long read_file(const char *path, char *buffer, long size)
{
    long fd = RAW(__NR_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long got = RAW(__NR_read, fd, buffer, size - 1);
    RAW(__NR_close, fd);
    buffer[got > 0 ? got : 0] = 0;
    return got;
}

static int parent_of(const char *name)
{
    char path[32] = "/proc/", buffer[512];
    int at = 6;
    for (const char *c = name; *c && at < 24; c++)
        path[at++] = *c;
    for (const char *c = "/stat"; *c; c++)
        path[at++] = *c;
    path[at] = 0;
    if (read_file(path, buffer, sizeof buffer) <= 0)
        return -1;
    const char *end = NULL; /* the name in parentheses may hold anything: count from the last one */
    for (const char *c = buffer; *c; c++)
        if (*c == ')')
            end = c;
    if (!end || end[1] != ' ' || !end[2] || end[3] != ' ' || end[2] == 'Z')
        return -1;
    return number(end + 4);
}

static int list_processes(void)
{
    char entries[8192];
    int count = 0;
    long got, fd = RAW(__NR_openat, AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    while ((got = RAW(__NR_getdents64, fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < got;) {
            struct directory_entry *entry = (struct directory_entry *)(entries + at);
            at += entry->length;
            if (entry->name[0] < '1' || entry->name[0] > '9' || count == MAX_PROCESSES)
                continue;
            table[count].pid = number(entry->name);
            table[count].parent = parent_of(entry->name);
            table[count].ours = 0;
            count++;
        }
    RAW(__NR_close, fd);
    return count;
}

static int signal_by_walk(int signal)
{
    /* Every process of the tree descends from the guard, and orphans come to it: it is the subreaper. */
    int self = (int)RAW(__NR_getpid), found = 0, grew = 1, count = list_processes();
    while (grew) {
        grew = 0;
        for (int i = 0; i < count; i++) {
            if (table[i].ours || table[i].parent < 0)
                continue;
            int ours = table[i].parent == self;
            for (int j = 0; j < count && !ours; j++)
                ours = table[j].ours && table[j].pid == table[i].parent;
            if (ours)
                table[i].ours = 1, grew = 1;
        }
    }
    for (int i = 0; i < count; i++)
        if (table[i].ours && RAW(__NR_kill, table[i].pid, signal) == 0)
            found++;
    return found;
}

#endif
