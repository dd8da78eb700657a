#include "pagemap.h"

#include <linux/ioctl.h>

#include "raw.h"

_Static_assert(sizeof(struct sl_pagemap_scan) == 96, "struct pm_scan_arg");

#define PAGEMAP_SCAN _IOWR('f', 16, struct sl_pagemap_scan) /* linux/fs.h, 6.7 */

/* `regions` has room for `count` struct page_region: three uint64_t each. Returns how many were filled. */
long sl_pagemap_scan(int pagemap, struct sl_pagemap_scan *scan, void *regions, uint64_t count)
{
    scan->size = sizeof *scan;
    scan->vec = (uint64_t)(uintptr_t)regions;
    scan->vec_len = count;
    return RAW(__NR_ioctl, pagemap, PAGEMAP_SCAN, scan);
}
