#ifndef SANDLOCK_NUMBERS_H
#define SANDLOCK_NUMBERS_H

#include <stdint.h>

/* Which device and inode number stand for an inode of a branch's storage: an open hash table in memory that the
 * interpreter owns, one word with the mask and then `mask + 1` slots. One thread changes it, and says so to the others
 * by sl_branch.begun; who reads it meanwhile gets anything, but ends. It is never full. */
struct sl_number {
    uint64_t inode;        /* 0: free */
    uint64_t shown_device;
    uint64_t shown_inode;  /* 0: no longer shown as another */
};

/* Say what `inode` is shown as, 0 and 0 for itself; 1: that took a free slot. */
int sl_numbers_put(uint64_t *table, uint64_t inode, uint64_t shown_device, uint64_t shown_inode);

/* Put what is in one table into another, which is empty; how many there are. */
uint64_t sl_numbers_move(const uint64_t *from, uint64_t *to);

/* NULL for what is shown as itself. */
const struct sl_number *sl_numbers_get(const uint64_t *table, uint64_t inode);

#endif
