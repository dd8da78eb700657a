#ifndef SANDLOCK_INODE_H
#define SANDLOCK_INODE_H

#include <stdint.h>

/* What the object of an O_PATH fd is, as the kernel writes it for a program; room for 256 bytes in every buffer. */
long sl_inode_stat(int fd, void *buffer); /* struct stat: returns its size */
long sl_inode_statx(int fd, uint32_t flags, uint32_t mask, void *buffer);
/* Let struct stat, struct statx tell another device and number. */
void sl_inode_renumber_stat(void *stat, uint64_t device, uint64_t inode);
void sl_inode_renumber_statx(void *statx, uint64_t device, uint64_t inode);
long sl_inode_statfs(int fd, void *buffer); /* struct statfs: returns its size */
long sl_inode_access(int fd, int mode, int flags);
long sl_inode_readlink(int fd, void *buffer, uint32_t size);
long sl_inode_getdents(int fd, void *buffer, uint32_t size); /* needs an open directory */

#endif
