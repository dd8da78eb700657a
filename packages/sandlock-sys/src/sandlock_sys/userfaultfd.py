"""userfaultfd(2) for one purpose: let the kernel note which pages are written, and never stop anybody for it (6.7).

Memory that is registered here and write-protected by `pagemap.scan` is written at the price of one page fault, which
the kernel answers itself (UFFD_FEATURE_WP_ASYNC); from then on PAGEMAP_SCAN calls the page written. When the last copy
of the descriptor is closed, everything is as it was before.
"""

from __future__ import annotations

from sandlock_sys._call import check
from sandlock_sys._ffi import lib

__all__ = ["USER_MODE_ONLY", "create", "note_writes", "register", "unprotect"]

USER_MODE_ONLY = 1  # UFFD_USER_MODE_ONLY, linux/userfaultfd.h, 5.11: what an ordinary user may make

_WP_UNPOPULATED = 1 << 13  # UFFD_FEATURE_WP_UNPOPULATED, 6.4: PAGEMAP_SCAN protects anonymous memory only with it
_WP_ASYNC = 1 << 15  # UFFD_FEATURE_WP_ASYNC, 6.7


def create(flags: int) -> int:
    """Return a userfaultfd for the caller's own memory; it is the caller's.

    Raises:
        SyscallError: EPERM (vm.unprivileged_userfaultfd, without USER_MODE_ONLY), ENOSYS.

    """
    return check("userfaultfd", lib.sl_userfaultfd(flags))


def note_writes(fd: int) -> None:
    """Say, once and before anything else, that writes are to be noted and nobody is to wait for an answer.

    Raises:
        SyscallError: EINVAL where the kernel cannot (before 6.7, or without CONFIG_PTE_MARKER_UFFD_WP).

    """
    check("ioctl UFFDIO_API", lib.sl_userfaultfd_api(fd, _WP_ASYNC | _WP_UNPOPULATED), f"fd {fd}")


def register(fd: int, start: int, end: int) -> None:
    """Have writes noted between two page-aligned addresses of the process that made `fd`; twice does no harm.

    Raises:
        SyscallError: EBUSY when another userfaultfd has some of it; EINVAL for what cannot be watched, or is not
            mapped; ESRCH when the memory is gone, since the process has ended or runs another program.

    """
    result = lib.sl_userfaultfd_register(fd, start, end - start)
    check("ioctl UFFDIO_REGISTER", result, f"fd {fd}, {start:#x}-{end:#x}")


def unprotect(fd: int, start: int, end: int) -> None:
    """Take all pages of a registered range for written."""
    result = lib.sl_userfaultfd_unprotect(fd, start, end - start)
    check("ioctl UFFDIO_WRITEPROTECT", result, f"fd {fd}, {start:#x}-{end:#x}")
