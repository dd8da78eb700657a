/* Finding a sandbox's processes without a Landlock signal scope (before 6.12): a walk over /proc.
 * Only the guard program includes it; the table is too large for a launch's stack. */
#ifndef SANDLOCK_GUARD_WALK_H
#define SANDLOCK_GUARD_WALK_H

#include <linux/fcntl.h>
#include <stddef.h>
#include <stdint.h>

#include "raw.h"

#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424 /* 5.1 */
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434 /* 5.3 */
#endif

enum { MAX_PROCESSES = 1 << 15 };

struct directory_entry { uint64_t inode; int64_t offset; uint16_t length; uint8_t type; char name[]; };

static struct process { int pid, parent, ours, running; uint64_t start; } table[MAX_PROCESSES];

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

/* What /proc/PID/stat tells of a process: its parent, and when it started, which with its number is its identity. A
 * zombie counts: it may be a process whose first thread has ended while others run on. 0, or -1 when it is gone. */
static int look_at(int pid, struct process *found)
{
    char path[32] = "/proc/", digits[12], buffer[1024];
    int at = 6, count = 0;
    for (int rest = pid; rest; rest /= 10)
        digits[count++] = (char)('0' + rest % 10);
    while (count)
        path[at++] = digits[--count];
    for (const char *c = "/stat"; *c; c++)
        path[at++] = *c;
    path[at] = 0;
    if (read_file(path, buffer, sizeof buffer) <= 0)
        return -1;
    const char *field = NULL; /* the name in parentheses may hold anything: count from the last one */
    for (const char *c = buffer; *c; c++)
        if (*c == ')')
            field = c;
    found->running = field && field[1] == ' ' && field[2] != 'T' && field[2] != 'Z' && field[2] != 'X';
    for (int number_of = 2; field && number_of < 22; number_of++) { /* the name is field 2: proc_pid_stat(5) */
        while (*field && *field != ' ')
            field++;
        if (!*field++)
            return -1;
        if (number_of + 1 == 4)
            found->parent = number(field);
    }
    found->pid = pid;
    found->ours = 0;
    found->start = 0;
    while (field && *field >= '0' && *field <= '9')
        found->start = found->start * 10 + (uint64_t)(*field++ - '0');
    return field ? 0 : -1;
}

static int list_processes(void)
{
    _Alignas(struct directory_entry) char entries[8192];
    int count = 0;
    long got, fd = RAW(__NR_openat, AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    while ((got = RAW(__NR_getdents64, fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < got;) {
            struct directory_entry *entry = (struct directory_entry *)(entries + at);
            at += entry->length;
            if (entry->name[0] >= '1' && entry->name[0] <= '9' && count < MAX_PROCESSES
                && !look_at(number(entry->name), &table[count]))
                count++;
        }
    RAW(__NR_close, fd);
    return count;
}

/* The process with number `pid`, or NULL: the kernel lists /proc in ascending order. */
static struct process *find(int pid, int count)
{
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (table[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && table[low].pid == pid ? &table[low] : NULL;
}

static void signal_process(const struct process *wanted, int signal)
{
    /* The number may be another process's by now, and a pidfd's cannot. It is the one that was listed if it still is
     * when looked at again, for what the pidfd names was alive before and after. */
    struct process now;
    long fd = RAW(__NR_pidfd_open, wanted->pid, 0);
    if (fd < 0)
        return;
    if (!look_at(wanted->pid, &now) && now.start == wanted->start)
        RAW(__NR_pidfd_send_signal, fd, signal, 0, 0);
    RAW(__NR_close, fd);
}

/* Signals every process of the tree; how many of them were neither stopped nor dead. */
static int signal_by_walk(int signal)
{
    /* Every process of the tree descends from the guard, and orphans come to it: it is the subreaper. */
    int self = (int)RAW(__NR_getpid), grew = 1, count = list_processes();
    while (grew) {
        grew = 0;
        for (int index = 0; index < count; index++) {
            struct process *one = &table[index], *parent;
            if (!one->ours && (one->parent == self || ((parent = find(one->parent, count)) && parent->ours)))
                one->ours = grew = 1;
        }
    }
    int running = 0;
    for (int index = 0; index < count; index++)
        if (table[index].ours) {
            signal_process(&table[index], signal);
            running += table[index].running;
        }
    return running;
}

#endif
