/* What the init of a pid namespace writes anew every five seconds, as the kernel does for a whole machine: /proc/loadavg and
 * the lines of /proc/stat, from the tasks of its namespace. Each is a file in a tmpfs that nobody inside can write; who made
 * it has put a first content there, and the number of processors and the time of boot are read from that.
 */
#ifndef SANDLOCK_GUARD_MACHINE_H
#define SANDLOCK_GUARD_MACHINE_H

#include "guard_walk.h"

enum {
    MACHINE_LOAD = 1, MACHINE_STAT = 2, /* fds */
    MACHINE_PERIOD = 5,                 /* seconds: LOAD_FREQ, linux/sched/loadavg.h */
    MACHINE_TICKS = 100,                /* USER_HZ */
    MACHINE_ONE = 2048,                 /* FIXED_1, as above */
    MACHINE_TASKS = 4096,               /* looked at in one turn: a bomb must not keep init busy */
    MACHINE_TEXT = 1 << 16,
    MACHINE_FIELDS = 20,                /* num_threads: proc_pid_stat(5) */
};

static struct machine {
    uint64_t load[3]; /* of 1, 5 and 15 minutes, times MACHINE_ONE */
    uint64_t started_s, boot_s, processors;
    uint64_t user, system, running, blocked, tasks, looked, newest;
    char text[MACHINE_TEXT];
    long bytes;
} machine;

static void put_text(const char *text)
{
    while (*text && machine.bytes < MACHINE_TEXT - 1)
        machine.text[machine.bytes++] = *text++;
}

static void put_number(uint64_t value, int width)
{
    char digits[21];
    int count = 20;
    digits[count] = 0;
    do
        digits[--count] = (char)('0' + value % 10);
    while (value /= 10);
    while (20 - count < width)
        digits[--count] = '0';
    put_text(digits + count);
}

/* State and numbers of a task from its stat file, `values` by the numbers of proc_pid_stat(5); 0, or -1 when it is gone. */
static int read_task(const char *path, char *state, uint64_t *values)
{
    char buffer[1024];
    const char *field = NULL;
    if (read_file(path, buffer, sizeof buffer) <= 0)
        return -1;
    for (const char *c = buffer; *c; c++)
        if (*c == ')')
            field = c;
    if (!field || field[1] != ' ' || !field[2])
        return -1;
    *state = field[2];
    field += 3;
    for (int at = 4; at <= MACHINE_FIELDS; at++) {
        if (*field++ != ' ')
            return -1;
        for (values[at] = 0; *field && *field != ' '; field++)
            values[at] = *field >= '0' && *field <= '9' ? values[at] * 10 + (uint64_t)(*field - '0') : 0;
    }
    return 0;
}

static void count_state(char state)
{
    machine.running += state == 'R';
    machine.blocked += state == 'D';
}

static void each_number(const char *folder, void (*visit)(const char *folder, const char *name))
{
    _Alignas(struct directory_entry) char entries[4096];
    long got, fd = RAW(__NR_openat, AT_FDCWD, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    while (machine.looked < MACHINE_TASKS && (got = RAW(__NR_getdents64, fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < got && machine.looked < MACHINE_TASKS;) {
            struct directory_entry *entry = (struct directory_entry *)(entries + at);
            at += entry->length;
            if (entry->name[0] >= '1' && entry->name[0] <= '9')
                visit(folder, entry->name);
        }
    RAW(__NR_close, fd);
}

/* folder/name/last; numbers and fixed words only, so it fits. */
static void join(char *path, const char *folder, const char *name, const char *last)
{
    const char *parts[] = {folder, "/", name, last};
    for (int index = 0; index < 4; index++)
        for (const char *c = parts[index]; *c; c++)
            *path++ = *c;
    *path = 0;
}

static void visit_thread(const char *folder, const char *name)
{
    char path[64], state;
    uint64_t values[MACHINE_FIELDS + 1];
    join(path, folder, name, "/stat");
    machine.looked++;
    if (!read_task(path, &state, values))
        count_state(state);
}

static void visit_process(const char *folder, const char *name)
{
    char path[64], state;
    uint64_t values[MACHINE_FIELDS + 1];
    int pid = number(name);
    join(path, folder, name, "/stat");
    machine.looked++;
    if (read_task(path, &state, values))
        return;
    /* What its children had used, those that it has waited for, is among its own numbers. */
    machine.user += values[14] + values[16];
    machine.system += values[15] + values[17];
    machine.tasks += values[20];
    if ((uint64_t)pid > machine.newest)
        machine.newest = (uint64_t)pid;
    if (pid == 1)
        return; /* this process, which runs to count */
    if (values[20] < 2) {
        count_state(state);
        return;
    }
    join(path, folder, name, "/task");
    each_number(path, visit_thread);
}

static void write_text(int fd)
{
    if (RAW(__NR_pwrite64, fd, machine.text, machine.bytes, 0) == machine.bytes)
        RAW(__NR_ftruncate, fd, machine.bytes);
    machine.bytes = 0;
}

/* As calc_load of kernel/sched/loadavg.c: exponentially weighted, in fixed point. */
static uint64_t weighted(uint64_t load, uint64_t keep, uint64_t active)
{
    uint64_t sum = load * keep + active * (MACHINE_ONE - keep);
    return (sum + (active >= load ? MACHINE_ONE - 1 : 0)) / MACHINE_ONE;
}

static void write_load(void)
{
    const uint64_t keep[] = {1884, 2014, 2037}; /* EXP_1, EXP_5, EXP_15 */
    for (int index = 0; index < 3; index++) {
        machine.load[index] = weighted(machine.load[index], keep[index], (machine.running + machine.blocked) * MACHINE_ONE);
        uint64_t shown = machine.load[index] + MACHINE_ONE / 200; /* rounded */
        put_number(shown / MACHINE_ONE, 1);
        put_text(".");
        put_number(shown % MACHINE_ONE * 100 / MACHINE_ONE, 2);
        put_text(" ");
    }
    put_number(machine.running, 1);
    put_text("/");
    put_number(machine.tasks, 1);
    put_text(" ");
    put_number(machine.newest, 1);
    put_text("\n");
    write_text(MACHINE_LOAD);
}

static void put_times(uint64_t user, uint64_t system, uint64_t idle)
{
    put_text(" ");
    put_number(user, 1);
    put_text(" 0 ");
    put_number(system, 1);
    put_text(" ");
    put_number(idle, 1);
    put_text(" 0 0 0 0 0 0\n");
}

static void put_line(const char *name, uint64_t value)
{
    put_text(name);
    put_number(value, 1);
    put_text("\n");
}

static void write_stat(uint64_t up_s)
{
    uint64_t each = machine.processors, busy = machine.user + machine.system, all = up_s * each * MACHINE_TICKS;
    uint64_t idle = all > busy ? all - busy : 0;
    put_text("cpu ");
    put_times(machine.user, machine.system, idle);
    for (uint64_t index = 0; index < each; index++) {
        put_text("cpu");
        put_number(index, 1);
        put_times(machine.user / each, machine.system / each, idle / each);
    }
    put_text("intr 0\nctxt 0\n");
    put_line("btime ", machine.boot_s);
    put_line("processes ", machine.newest);
    put_line("procs_running ", machine.running ? machine.running : 1); /* who reads it */
    put_line("procs_blocked ", machine.blocked);
    put_text("softirq 0 0 0 0 0 0 0 0 0 0 0\n");
    if (machine.bytes < MACHINE_TEXT - 1) /* thousands of processors: what was there stays */
        write_text(MACHINE_STAT);
    machine.bytes = 0;
}

/* Nonzero when `line` begins with `word`. */
static int begins(const char *line, const char *word)
{
    while (*word)
        if (*line++ != *word++)
            return 0;
    return 1;
}

static uint64_t monotonic_s(void)
{
    int64_t now[2] = {0, 0};
    RAW(__NR_clock_gettime, GUARD_MONOTONIC, now);
    return (uint64_t)now[0];
}

/* Nonzero when there is something to write. */
static int begin_machine(void)
{
    long got = RAW(__NR_pread64, MACHINE_STAT, machine.text, MACHINE_TEXT - 1, 0);
    machine.text[got > 0 ? got : 0] = 0;
    for (const char *line = machine.text; *line; line++) {
        if (begins(line, "cpu") && line[3] >= '0' && line[3] <= '9')
            machine.processors++;
        if (begins(line, "btime "))
            for (const char *c = line + 6; *c >= '0' && *c <= '9'; c++)
                machine.boot_s = machine.boot_s * 10 + (uint64_t)(*c - '0');
        while (*line && *line != '\n')
            line++;
        if (!*line)
            break;
    }
    machine.started_s = monotonic_s();
    return machine.processors > 0;
}

static void tell_machine(void)
{
    machine.user = machine.system = machine.running = machine.blocked = machine.tasks = machine.looked = machine.newest = 0;
    each_number("/proc", visit_process);
    write_load();
    write_stat(monotonic_s() - machine.started_s);
}

#endif
