#include "hugepages.h"

#include "raw.h"

/* linux/mman.h */
#define NONE 0
#define READ_WRITE 3
#define SHARED 0x01
#define RESERVED (0x02 | 0x20 | 0x4000) /* MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE */
#define FIXED 0x10
#define COLLAPSE 25 /* MADV_COLLAPSE, 6.1 */

/* Has these bytes of the file kept in huge pages. All three numbers are multiples of `huge`. The file is mapped for that
 * at an address that is a multiple too, and nobody looks at the mapping: a file that is cut meanwhile ends nobody. */
long sl_collapse_file(int fd, uint64_t offset, uint64_t length, uint64_t huge)
{
    long place = RAW(__NR_mmap, 0, length + huge, NONE, RESERVED, -1, 0);
    if (place < 0)
        return place;
    uint64_t aligned = ((uint64_t)place + huge - 1) / huge * huge;
    long result = RAW(__NR_mmap, aligned, length, READ_WRITE, SHARED | FIXED, fd, offset);
    if (result >= 0)
        result = RAW(__NR_madvise, aligned, length, COLLAPSE);
    RAW(__NR_munmap, place, length + huge);
    return result;
}
