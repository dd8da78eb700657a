#ifndef SANDLOCK_SYNCFS_H
#define SANDLOCK_SYNCFS_H

long sl_syncfs(int fd);

#endif
