#ifndef SANDLOCK_PTRACE_H
#define SANDLOCK_PTRACE_H

#include <stddef.h>
#include <stdint.h>

long sl_ptrace(long request, int tid, uint64_t address, uint64_t data);
long sl_ptrace_buffer(long request, int tid, uint64_t address, void *data);
long sl_ptrace_regset(long request, int tid, uint32_t type, void *buffer, size_t size);
long sl_wait4(int pid, void *status, int options);

#endif
