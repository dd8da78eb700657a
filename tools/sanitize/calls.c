/* For tools/sanitize.py: see calls.h. */
#include <sanitizer/asan_interface.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "raw.h"

enum { LAUNCH_STACK = 48 * 1024 };

long sanitize_call(long number, long a, long b, long c, long d, long e, long f);
int __real_clone(int (*function)(void *), void *top, int flags, void *argument, ...);
int __wrap_clone(int (*function)(void *), void *top, int flags, void *argument, ...);
int __real_munmap(void *address, size_t size);
int __wrap_munmap(void *address, size_t size);

/* Reads the first byte that is no variable's: the report tells whose neighbour it is. */
static void touch(long address, size_t size)
{
    volatile char *bad = size && address ? __asan_region_is_poisoned((void *)address, size) : NULL;
    if (bad)
        (void)*bad;
}

static void touch_vector(long address, size_t count)
{
    const struct iovec *vector = (const struct iovec *)address;
    touch(address, count * sizeof *vector);
    for (size_t index = 0; index < count; index++)
        touch((long)vector[index].iov_base, vector[index].iov_len);
}

static void touch_message(long address)
{
    const struct msghdr *message = (const struct msghdr *)address;
    touch(address, sizeof *message);
    touch((long)message->msg_name, message->msg_namelen);
    touch((long)message->msg_control, message->msg_controllen);
    touch_vector((long)message->msg_iov, message->msg_iovlen);
}

static void touch_sized(long address, long size)
{
    touch(size, sizeof(uint32_t));
    touch(address, *(uint32_t *)size);
}

static void look(long number, long b, long c, long d, long e, long f)
{
    switch (number) {
    case __NR_read: case __NR_pread64: case __NR_getdents64: case __NR_write: case __NR_pwrite64:
    case __NR_connect: case __NR_bind:
        return touch(b, (size_t)c);
    case __NR_readlinkat:
        return touch(c, (size_t)d);
    case __NR_newfstatat:
        return touch(c, 144);
    case __NR_statx:
        return touch(e, 256);
    case __NR_fstatfs:
        return touch(b, 120);
    case 437: /* openat2 */
        return touch(c, (size_t)d);
    case __NR_ioctl: /* the size is in the number: asm-generic/ioctl.h */
        return ((unsigned long)c >> 30 & 3) && ((unsigned long)b >> 30 & 3) ? touch(c, (unsigned long)b >> 16 & 0x3fff) : (void)0;
    case __NR_process_vm_readv: case __NR_process_vm_writev:
        touch_vector(b, (size_t)c);
        return touch(d, (size_t)e * sizeof(struct iovec));
    case __NR_sendmsg: case __NR_recvmsg:
        return touch_message(b);
    case __NR_sendto:
        touch(b, (size_t)c);
        return touch(e, (size_t)f);
    case __NR_getsockname: case __NR_getpeername:
        return touch_sized(b, c);
    case __NR_getsockopt:
        return touch_sized(d, e);
    case __NR_setsockopt:
        return touch(d, (size_t)e);
    default:
        return;
    }
}

long sanitize_call(long number, long a, long b, long c, long d, long e, long f)
{
    look(number, b, c, d, e, f);
    if (number == __NR_munmap)
        __asan_unpoison_memory_region((void *)a, (size_t)b);
    return raw_syscall6(number, a, b, c, d, e, f);
}

/* Who executes or ends leaves its frames on the stack, where the next one of the launch would run into them. */
int __wrap_clone(int (*function)(void *), void *top, int flags, void *argument, ...)
{
    va_list more;
    va_start(more, argument);
    void *parent_word = va_arg(more, void *), *storage = va_arg(more, void *), *child_word = va_arg(more, void *);
    va_end(more);
    __asan_unpoison_memory_region((char *)top - LAUNCH_STACK, LAUNCH_STACK);
    return __real_clone(function, top, flags, argument, parent_word, storage, child_word);
}

/* What is mapped there next is not a stack. */
int __wrap_munmap(void *address, size_t size)
{
    __asan_unpoison_memory_region(address, size);
    return __real_munmap(address, size);
}
