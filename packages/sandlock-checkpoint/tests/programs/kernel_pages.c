/* Reads the clock by code of the kernel's in its own memory, again and again, and holds it against a system call's.
 *
 *   kernel_pages vdso|vsyscall FLAG     until the file FLAG exists; then "right"
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t by_call(clockid_t clock)
{
    struct timespec now;
    syscall(SYS_clock_gettime, clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int64_t by_vdso(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
    time_t (*volatile vsyscall)(time_t *) = (time_t (*)(time_t *))0xffffffffff600400;
    int old = argc > 2 && !strcmp(argv[1], "vsyscall");
    if (argc < 3)
        return 2;
    for (unsigned round = 0;; round++) {
        int64_t before = old ? by_call(CLOCK_REALTIME_COARSE) / 1000000000 : by_call(CLOCK_MONOTONIC);
        for (int step = 0; step < 500; step++) {
            int64_t now = old ? vsyscall(0) : by_vdso();
            if (now < before) {
                printf("wrong: %ld before %ld\n", (long)now, (long)before);
                return 1;
            }
            before = now;
        }
        if (before > (old ? by_call(CLOCK_REALTIME) / 1000000000 : by_call(CLOCK_MONOTONIC))) {
            printf("wrong: %ld is yet to come\n", (long)before);
            return 1;
        }
        if (round % 64 == 0) {
            printf("round %u\n", round);
            fflush(stdout);
            if (!access(argv[2], F_OK))
                break;
        }
    }
    printf("right\n");
    return 0;
}
