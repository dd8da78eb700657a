#ifndef SANDLOCK_PAGEMAP_H
#define SANDLOCK_PAGEMAP_H

#include <stdint.h>

/* struct pm_scan_arg of linux/fs.h, 6.7 */
struct sl_pagemap_scan {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};

long sl_pagemap_scan(int pagemap, struct sl_pagemap_scan *scan, void *regions, uint64_t count);

#endif
