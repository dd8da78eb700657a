"""The bytes of a file into another: shared where the file system can, holes kept, copied in the kernel otherwise."""

from __future__ import annotations

import errno
import fcntl
import os

__all__ = ["copy_data"]

_FICLONE = 0x40049409  # linux/fs.h, 4.5: _IOW(0x94, 9, int), the same number on every architecture here
_CHUNK = 1 << 30
_BUFFER = 1 << 20
# What FICLONE and copy_file_range answer where they cannot, beside real failures (ioctl_ficlone(2)).
_CANNOT = (
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
)


def copy_data(source: int, target: int, size: int) -> None:
    """Make the empty file `target` hold what `source` holds.

    Arguments:
        source: fd open for reading; its offset moves.
        target: fd open for writing, empty.
        size: bytes of `source`. A file that says 0 is read to its end: those of /proc do that.

    """
    if size == 0:
        _copy_plain(source, target, 0, None)
        return
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    else:
        return
    os.ftruncate(target, size)
    offset = 0
    while offset < size:
        start, end = _extent(source, offset, size)
        if start >= size:
            break
        _copy_extent(source, target, start, end)
        offset = end


def _extent(source: int, offset: int, size: int) -> tuple[int, int]:
    """The next stretch of data at or after `offset`; (size, size) when only a hole is left."""
    try:
        start = os.lseek(source, offset, os.SEEK_DATA)
        return start, min(size, os.lseek(source, start, os.SEEK_HOLE))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return offset, size


def _copy_extent(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.copy_file_range(source, target, min(_CHUNK, end - start), start, start)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            done = 0
        if not done:
            _copy_plain(source, target, start, end)
            return
        start += done


def _copy_plain(source: int, target: int, start: int, end: int | None) -> None:
    """Read and write, up to `end` or to the end of the file."""
    while end is None or start < end:
        data = os.pread(source, _BUFFER if end is None else min(_BUFFER, end - start), start)
        if not data:
            return
        written = 0
        while written < len(data):
            written += os.pwrite(target, data[written:], start + written)
        start += len(data)
