/* Foreign system call doors of x86-64: int $0x80, far jump to the 32-bit code segment, x32 numbers, vsyscall page.
 *
 *   foreign int80 PATH | ljmp PATH | x32 NR | vsyscall
 *
 * int80 and ljmp open PATH with the i386 number 5 and print the first line of what they read. Linked without PIE,
 * so that static data lie below 4 GiB.
 */
#define _GNU_SOURCE
#include "report.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>

static char low_path[4096];

static long int80(long nr, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

/* Enters 32-bit mode through CS 0x23, opens the path there, and comes back through CS 0x33. */
static long far_open(const char *path)
{
    unsigned char *page = mmap((void *)0x10000000, 8192, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (page == MAP_FAILED)
        return -1;
    static const unsigned char code[] = {
        0xb8, 5, 0, 0, 0,             /* mov $5, %eax (open) */
        0x31, 0xc9,                   /* xor %ecx, %ecx      */
        0x31, 0xd2,                   /* xor %edx, %edx      */
        0xcd, 0x80,                   /* int $0x80           */
        0xea, 0x20, 0, 0, 0x10, 0x33, 0, /* ljmp $0x33,$0x10000020 */
    };
    memcpy(page, code, sizeof code);
    page[0x20] = 0x49; page[0x21] = 0x89; page[0x22] = 0xe2; /* mov %rsp, %r10: leave the caller's stack as it was */
    page[0x23] = 0x41; page[0x24] = 0xff; page[0x25] = 0xe3; /* jmp *%r11 */
    static struct { unsigned offset; unsigned short segment; } __attribute__((packed)) target = {0x10000000, 0x23};
    long result;
    __asm__ volatile("lea 1f(%%rip), %%r11\n\t"
                     "mov %%rsp, %%r12\n\t"
                     "mov %[stack], %%rsp\n\t"
                     "ljmp *(%[target])\n"
                     "1:\n\t"
                     "mov %%r12, %%rsp\n\t"
                     : "=a"(result)
                     : "b"((long)path), [target] "r"(&target), [stack] "r"(0x10001ff0L)
                     : "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "memory");
    return (int)result;
}

static int show(int fd)
{
    char text[256];
    ssize_t n = read(fd, text, sizeof text);
    if (n > 0 && write(1, text, (size_t)n) != n)
        return 120;
    return 0;
}

int main(int argc, char **argv)
{
    long result = -1;
    if (argc > 2)
        strncpy(low_path, argv[2], sizeof low_path - 1);
    if (argc > 2 && strcmp(argv[1], "int80") == 0)
        result = int80(5, (long)low_path, 0, 0);
    else if (argc > 2 && strcmp(argv[1], "ljmp") == 0)
        result = far_open(low_path);
    else if (argc > 2 && strcmp(argv[1], "x32") == 0) {
        __asm__ volatile("syscall" : "=a"(result)
                         : "0"(0x40000000L | strtol(argv[2], NULL, 0)), "D"(0L), "S"(0L), "d"(0L)
                         : "rcx", "r11", "memory");
        errno = result < 0 ? (int)-result : 0;
        report("x32", result < 0 ? -1 : result);
        return 0;
    } else if (argc > 1 && strcmp(argv[1], "vsyscall") == 0) {
        struct timeval now = {0};
        long (*entry)(struct timeval *, void *) = (long (*)(struct timeval *, void *))0xffffffffff600000L;
        report("vsyscall", entry(&now, NULL) == 0 && now.tv_sec > 1000000000 ? 0 : -1);
        return 0;
    }
    errno = result < 0 ? (int)-result : 0;
    report(argc > 1 ? argv[1] : "none", result < 0 ? -1 : result);
    return result < 0 ? 1 : show((int)result);
}
