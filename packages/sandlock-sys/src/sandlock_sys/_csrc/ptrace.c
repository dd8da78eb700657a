#include "ptrace.h"

#include <sys/uio.h>

#include "raw.h"

_Static_assert(sizeof(struct iovec) == 16, "struct iovec");

long sl_ptrace(long request, int tid, uint64_t address, uint64_t data)
{
    return RAW(__NR_ptrace, request, tid, address, data);
}

long sl_ptrace_buffer(long request, int tid, uint64_t address, void *data)
{
    return RAW(__NR_ptrace, request, tid, address, data);
}

/* Returns the bytes that the kernel filled or took. */
long sl_ptrace_regset(long request, int tid, uint32_t type, void *buffer, size_t size)
{
    struct iovec area = {buffer, size};
    long result = RAW(__NR_ptrace, request, tid, type, &area);
    return result < 0 ? result : (long)area.iov_len;
}

long sl_wait4(int pid, void *status, int options)
{
    return RAW(__NR_wait4, pid, status, options, 0);
}
