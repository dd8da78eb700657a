#include "numbers.h"

#include <stddef.h>

_Static_assert(sizeof(struct sl_number) == 24, "sandlock_sys/shortcut.py");

static struct sl_number *slots(const uint64_t *table)
{
    return (struct sl_number *)(table + 1);
}

/* The slot of an inode, or the free one where it belongs; NULL in a table without either. */
static struct sl_number *slot_of(const uint64_t *table, uint64_t inode)
{
    uint64_t mask = table[0], at = inode * 0x9e3779b97f4a7c15ULL >> 32;
    for (uint64_t step = 0; step <= mask; step++) {
        struct sl_number *slot = &slots(table)[(at + step) & mask];
        if (!slot->inode || slot->inode == inode)
            return slot;
    }
    return NULL;
}

int sl_numbers_put(uint64_t *table, uint64_t inode, uint64_t shown_device, uint64_t shown_inode)
{
    struct sl_number *slot = slot_of(table, inode);
    if (!slot || !inode)
        return 0;
    int taken = !slot->inode;
    slot->shown_device = shown_device;
    slot->shown_inode = shown_inode;
    slot->inode = inode;
    return taken;
}

uint64_t sl_numbers_move(const uint64_t *from, uint64_t *to)
{
    uint64_t count = 0;
    for (uint64_t at = 0; at <= from[0]; at++) {
        const struct sl_number *slot = &slots(from)[at];
        if (slot->inode && slot->shown_inode)
            count += (uint64_t)sl_numbers_put(to, slot->inode, slot->shown_device, slot->shown_inode);
    }
    return count;
}

const struct sl_number *sl_numbers_get(const uint64_t *table, uint64_t inode)
{
    const struct sl_number *slot = slot_of(table, inode);
    return slot && slot->inode == inode && slot->shown_inode ? slot : NULL;
}
