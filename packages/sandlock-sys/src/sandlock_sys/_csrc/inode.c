#include "inode.h"

#include <asm/stat.h>
#include <asm/statfs.h>
#include <stddef.h>
#include <string.h>

#include "raw.h"

#ifndef __NR_faccessat2
#define __NR_faccessat2 439 /* 5.8, the same number everywhere */
#endif

enum { EMPTY_PATH = 0x1000, ROOM = 256, /* AT_EMPTY_PATH, linux/fcntl.h, 2.6.39 */
       STATX_INODE = 32, STATX_DEVICE = 136 }; /* offsets in struct statx, linux/stat.h, 4.11 */

_Static_assert(sizeof(struct stat) <= ROOM && sizeof(struct statfs) <= ROOM, "sandlock_sys/inode.py");

long sl_inode_stat(int fd, void *buffer)
{
    long result = RAW(__NR_newfstatat, fd, "", buffer, EMPTY_PATH);
    return result < 0 ? result : (long)sizeof(struct stat);
}

long sl_inode_statx(int fd, uint32_t flags, uint32_t mask, void *buffer)
{
    return RAW(__NR_statx, fd, "", flags | EMPTY_PATH, mask, buffer);
}

void sl_inode_renumber_stat(void *stat, uint64_t device, uint64_t inode)
{
    struct stat *found = stat;
    found->st_dev = device;
    found->st_ino = inode;
}

/* The inverse of the device number of struct stat: new_decode_dev of the kernel. */
void sl_inode_renumber_statx(void *statx, uint64_t device, uint64_t inode)
{
    uint32_t numbers[2] = {(uint32_t)(device >> 8 & 0xfff) | (uint32_t)(device >> 32 & 0xfffff000),
                           (uint32_t)(device & 0xff) | (uint32_t)(device >> 12 & 0xffffff00)};
    memcpy((char *)statx + STATX_INODE, &inode, sizeof inode);
    memcpy((char *)statx + STATX_DEVICE, numbers, sizeof numbers);
}

long sl_inode_statfs(int fd, void *buffer)
{
    long result = RAW(__NR_fstatfs, fd, buffer);
    return result < 0 ? result : (long)sizeof(struct statfs);
}

long sl_inode_access(int fd, int mode, int flags)
{
    return RAW(__NR_faccessat2, fd, "", mode, flags | EMPTY_PATH);
}

long sl_inode_readlink(int fd, void *buffer, uint32_t size)
{
    return RAW(__NR_readlinkat, fd, "", buffer, size);
}

long sl_inode_getdents(int fd, void *buffer, uint32_t size)
{
    return RAW(__NR_getdents64, fd, buffer, size);
}
