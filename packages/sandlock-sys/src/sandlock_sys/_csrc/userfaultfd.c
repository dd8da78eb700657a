#include "userfaultfd.h"

#include <linux/ioctl.h>
#include <linux/userfaultfd.h>

#include "raw.h"

long sl_userfaultfd(int flags)
{
    return RAW(__NR_userfaultfd, flags);
}

long sl_userfaultfd_api(int fd, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    return RAW(__NR_ioctl, fd, UFFDIO_API, &api);
}

long sl_userfaultfd_register(int fd, uint64_t start, uint64_t length)
{
    struct uffdio_register range = {.range = {start, length}, .mode = UFFDIO_REGISTER_MODE_WP};
    return RAW(__NR_ioctl, fd, UFFDIO_REGISTER, &range);
}

long sl_userfaultfd_unprotect(int fd, uint64_t start, uint64_t length)
{
    struct uffdio_writeprotect range = {.range = {start, length}};
    return RAW(__NR_ioctl, fd, UFFDIO_WRITEPROTECT, &range);
}
