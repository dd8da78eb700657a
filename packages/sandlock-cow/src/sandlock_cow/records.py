"""What the real tree held where the branch first touched it: how a commit knows that somebody else changed it since.

One append-only file in the branch's folder, each record a length and two byte strings, so that no name can forge
another record. A record that a crash cut short is ignored: the commit then falls back on change times.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ABSENT", "Records", "Signature", "signature"]

Signature = tuple[int, ...]
ABSENT: Signature = ()

_HEADER = struct.Struct("<II")  # bytes of the path, numbers in the signature
_FILE = "records"
_MASK = (1 << 64) - 1


def signature(found: os.stat_result | None) -> Signature:
    """What must be the same later. A directory's times and size are not its own: others work in it too."""
    if found is None:
        return ABSENT
    owner = (found.st_mode, found.st_uid, found.st_gid, found.st_ino)
    if stat.S_ISDIR(found.st_mode):
        return owner
    # Times before 1970 are negative.
    return (*owner, found.st_size, found.st_mtime_ns & _MASK, found.st_ctime_ns & _MASK)


class Records:
    """The first-touch signatures of a branch, by path; owns the fd of its file.

    Attributes:
        loaded: bytes that were there when it was opened.

    """

    def __init__(self, folder: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._folder = folder
        self._fd = os.open(_FILE, flags, 0o600, dir_fd=folder)
        self._by_path: dict[bytes, Signature] = {}
        self.loaded = os.fstat(self._fd).st_size
        if self.loaded:
            self._load(os.pread(self._fd, self.loaded, 0))

    def _load(self, data: bytes) -> None:
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, count = _HEADER.unpack_from(data, offset)
            end = offset + _HEADER.size + length + 8 * count
            if end > len(data):
                break
            path = data[offset + _HEADER.size : offset + _HEADER.size + length]
            self._by_path[path] = struct.unpack_from(f"<{count}Q", data, end - 8 * count)
            offset = end
        if offset != len(data):
            os.ftruncate(self._fd, offset)  # the next record must not follow half of one

    def note(self, path: bytes, found: os.stat_result | None) -> int:
        """Remember the first signature of `path`, and return the bytes that it took; a later one changes nothing."""
        return 0 if path in self._by_path else self._put(path, signature(found))

    def _put(self, path: bytes, numbers: Signature) -> int:
        self._by_path[path] = numbers
        packed = struct.pack(f"<{len(numbers)}Q", *numbers)
        return os.write(self._fd, _HEADER.pack(len(path), len(numbers)) + path + packed)

    def get(self, path: bytes) -> Signature | None:
        """The signature of `path`, None when the branch never noted one."""
        return self._by_path.get(path)

    def items(self) -> Iterable[tuple[bytes, Signature]]:
        """All paths with their signatures."""
        return tuple(self._by_path.items())

    def forget(self, paths: Iterable[bytes], renewed: dict[bytes, Signature]) -> None:
        """Drop some paths and replace the signatures of others, in one step that a crash cannot split."""
        for path in paths:
            self._by_path.pop(path, None)
        fresh = os.open(
            _FILE + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._folder
        )
        os.close(fresh)
        self.close()
        self._fd = os.open(_FILE + ".new", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, dir_fd=self._folder)
        for path, numbers in {**self._by_path, **renewed}.items():
            self._put(path, numbers)
        os.fsync(self._fd)
        os.rename(_FILE + ".new", _FILE, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
