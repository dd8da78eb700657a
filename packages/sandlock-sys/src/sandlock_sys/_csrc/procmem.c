#include "procmem.h"

#include <errno.h>
#include <string.h>

#include "raw.h"

#define BATCH 1024 /* UIO_MAXIOV, linux/uio.h: the kernel takes no longer list */

#define PAGE 4096  /* the smallest page there is; larger ones only make one more step */

/* struct iovec of linux/uio.h; a range of the other process is one too */
struct range {
    uint64_t address;
    uint64_t length;
};

_Static_assert(sizeof(struct range) == 16, "struct iovec");
_Static_assert(sizeof(struct sl_procmem_progress) == 24, "struct sl_procmem_progress");

/* Fills `batch` with what is left, the first range from its offset on; returns the number of entries. */
static size_t next_batch(const struct range *ranges, size_t count, const struct sl_procmem_progress *progress,
                         struct range *batch, uint64_t *total)
{
    size_t used = 0;
    uint64_t offset = progress->offset;
    *total = 0;
    for (size_t index = progress->index; index < count && used < BATCH; index++, offset = 0) {
        batch[used].address = ranges[index].address + offset;
        batch[used].length = ranges[index].length - offset;
        *total += batch[used++].length;
    }
    return used;
}

static void advance(const struct range *ranges, size_t count, struct sl_procmem_progress *progress, uint64_t bytes)
{
    progress->done += bytes;
    progress->offset += bytes;
    while (progress->index < count && progress->offset >= ranges[progress->index].length) {
        progress->offset -= ranges[progress->index].length;
        progress->index++;
    }
}

/* The kernel stops silently at the first page it cannot reach, and after 2 GiB. So go on from there until all is
 * done or a call moves nothing and so says why. */
static long transfer(long nr, int pid, const struct range *ranges, size_t count, uint64_t local,
                     struct sl_procmem_progress *progress)
{
    struct range batch[BATCH];
    progress->done = progress->index = progress->offset = 0;
    advance(ranges, count, progress, 0); /* over empty ranges */
    while (progress->index < count) {
        uint64_t total;
        size_t used = next_batch(ranges, count, progress, batch, &total);
        struct range own = {local + progress->done, total};
        long result = RAW(nr, pid, &own, 1, batch, used, 0);
        if (result <= 0)
            return result ? result : -EFAULT;
        advance(ranges, count, progress, (uint64_t)result);
    }
    return 0;
}

long sl_procmem_read(int pid, const void *ranges, size_t count, void *local, struct sl_procmem_progress *progress)
{
    return transfer(__NR_process_vm_readv, pid, ranges, count, (uint64_t)(uintptr_t)local, progress);
}

long sl_procmem_write(int pid, const void *ranges, size_t count, const void *local,
                      struct sl_procmem_progress *progress)
{
    return transfer(__NR_process_vm_writev, pid, ranges, count, (uint64_t)(uintptr_t)local, progress);
}

/* Returns the length of the string at `address`, copied to `buffer`. Page by page: most strings lie in one, and the
 * bytes behind them are nobody's business. Where `limit` bytes hold no NUL it is -ENAMETOOLONG. */
long sl_procmem_string(int pid, uint64_t address, void *buffer, size_t limit)
{
    size_t done = 0;
    while (done < limit) {
        size_t size = PAGE - ((address + done) & (PAGE - 1));
        if (size > limit - done)
            size = limit - done;
        struct range own = {(uint64_t)(uintptr_t)buffer + done, size};
        struct range other = {address + done, size};
        long result = RAW(__NR_process_vm_readv, pid, &own, 1, &other, 1, 0);
        if (result <= 0)
            return result ? result : -EFAULT;
        const char *end = memchr((char *)buffer + done, 0, (size_t)result);
        if (end)
            return end - (const char *)buffer;
        done += (size_t)result;
    }
    return -ENAMETOOLONG;
}
