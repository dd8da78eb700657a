/* The guard program: what the guard of a sandbox that lives on becomes; static, without a libc.
 *
 *   sandlock-guard CHILD-PID HOST-PID INIT-PID|scope|walk REAPED USER-US SYSTEM-US PEAK-KIB FLOOR-KIB    fd 0: the control socket
 *   sandlock-init                                                                      first process of a pid namespace
 */
#include "guard_init.h"
#include "guard_loop.h"
#include "guard_memory.h"
#include "guard_walk.h"

static int guard_walk(int signal)
{
    return signal_by_walk(signal);
}

static uint64_t large(const char *text)
{
    uint64_t value = 0;
    while (*text >= '0' && *text <= '9')
        value = value * 10 + (uint64_t)(*text++ - '0');
    return value;
}

__attribute__((used)) void guard_start(long *stack)
{
    const char *const *argv = (const char *const *)(stack + 1);
    struct guard guard = {0};
    if (stack[0] == 1)
        serve_as_init();
    if (stack[0] != SL_GUARD_ARGUMENTS)
        RAW(__NR_exit_group, 64);
    RAW(__NR_prctl, PR_SET_NAME, "sandlock-guard", 0, 0, 0); /* executed from an fd it would have the fd's name */
    guard.child = number(argv[1]);
    guard.host = number(argv[2]);
    guard.init = number(argv[3]);
    guard.reach = guard.init ? GUARD_INIT : argv[3][0] == 'w' ? GUARD_WALK : GUARD_SCOPE;
    guard.report.reaped = (uint32_t)number(argv[4]);
    guard.report.user_us = large(argv[5]);
    guard.report.system_us = large(argv[6]);
    guard.report.peak_kib = large(argv[7]);
    guard.floor_kib = large(argv[8]);
    if (!guard_prepare(&guard))
        guard_end(&guard);
    guard_serve(&guard, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call guard_start\n ud2\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x0, sp\n bl guard_start\n brk #0\n");
#elif defined(__riscv)
__asm__(".globl _start\n_start:\n.option push\n.option norelax\n la gp, __global_pointer$\n.option pop\n"
        " mv a0, sp\n call guard_start\n ebreak\n");
#endif
