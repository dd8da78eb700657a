#ifndef SANDLOCK_PROCMEM_H
#define SANDLOCK_PROCMEM_H

#include <stddef.h>
#include <stdint.h>

/* How far a transfer came: `done` bytes in all; the next byte is at `offset` in range `index`. */
struct sl_procmem_progress {
    uint64_t done;
    uint64_t index;
    uint64_t offset;
};

long sl_procmem_read(int pid, const void *ranges, size_t count, void *local, struct sl_procmem_progress *progress);
long sl_procmem_write(int pid, const void *ranges, size_t count, const void *local,
                      struct sl_procmem_progress *progress);
long sl_procmem_string(int pid, uint64_t address, void *buffer, size_t limit);

#endif
