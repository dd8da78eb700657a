"""Programs whose loader lies elsewhere than the kernel would look for it.

The kernel opens the interpreter that an ELF file names (PT_INTERP) in the child's real root. Where the view has another
file under that name, the child is given a copy of the program in memory that names the right one by its path on the
host. Only the path of the loader differs, and it lies behind the end of the original: no code or data moves.
"""

from __future__ import annotations

import fcntl
import os
from collections import OrderedDict
from errno import EINVAL, ENOMEM, ENXIO
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_notif.fs.marks import Identity

__all__ = ["Loaders", "interpreter_of"]

_HEADER = Struct("<16s2H I 3Q I 6H")  # Elf64_Ehdr, elf.h
_SEGMENT = Struct("<2I 6Q")  # Elf64_Phdr
_INTERPRETER = 3  # PT_INTERP
_SEGMENTS = 128
_PATH_MAX = 4096  # linux/limits.h
_CHUNK = 1 << 20
_FURTHEST = (1 << 63) - 1 - (1 << 20)  # MAX_LFS_FILESIZE, linux/fs.h, less what is read at once
_LARGEST = 512 << 20  # bytes of a program that is copied; holes do not count
_KEPT_BYTES = 64 << 20  # of copies, which are made again when they are needed again
_TOLD = 4096  # programs whose names are remembered
_EXECUTABLE = 0x10  # MFD_EXEC, linux/memfd.h, 6.3
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def interpreter_of(program: int) -> tuple[bytes, int] | None:
    """Return the loader that an ELF file of 64 bits names, and where its program header lies; None without one."""
    head = os.pread(program, _HEADER.size, 0)
    if len(head) < _HEADER.size or head[:5] != b"\x7fELF\2":
        return None
    fields = _HEADER.unpack(head)
    table, size, count = fields[5], fields[9], fields[10]
    if size != _SEGMENT.size or count > _SEGMENTS:
        return None
    segments = _read(program, size * count, table)
    for index in range(len(segments) // size):
        kind, _, offset, _, _, length, _, _ = _SEGMENT.unpack_from(segments, index * size)
        if kind == _INTERPRETER and 2 <= length <= _PATH_MAX:
            name = _read(program, length, offset).partition(b"\0")[0]
            return (name, table + index * size) if name else None
    return None


def _read(program: int, length: int, offset: int) -> bytes:
    """Return a part of a file, nothing where the file's maker says that it lies where no file reaches."""
    return os.pread(program, length, offset) if offset <= _FURTHEST else b""


class Loaders:
    """Copies of programs with another loader, and the names of the originals."""

    def __init__(self) -> None:
        self._copies: OrderedDict[tuple[int, int, int, int, bytes], tuple[int, int]] = OrderedDict()
        self._bytes = 0
        self._names: OrderedDict[Identity, bytes] = OrderedDict()

    def copy(self, program: int, header: int, loader: bytes, name: bytes) -> int:
        """Return an fd, the caller's, of a sealed copy of `program` that names `loader`.

        Arguments:
            program: an fd that may be read.
            header: where its PT_INTERP header lies.
            loader: the host's path of what is to load it.
            name: the path of the program in the view.

        Raises:
            OSError: it cannot be read, or is too large (ENOMEM): the memory is ours, and no limit of the sandbox's.

        """
        found = os.fstat(program)
        key = found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size, loader
        kept = self._copies.get(key)
        if kept is None:
            made = _copy(program, header, loader, name.rpartition(b"/")[2])
            kept = made, found.st_size
            self._copies[key] = kept
            self._bytes += found.st_size
        self._copies.move_to_end(key)
        copied = os.fstat(kept[0])
        self._names[copied.st_dev, copied.st_ino] = name
        if len(self._names) > _TOLD:
            self._names.popitem(last=False)
        result = os.dup(kept[0])
        while self._bytes > _KEPT_BYTES:
            fd, size = self._copies.popitem(last=False)[1]
            os.close(fd)
            self._bytes -= size
        return result

    def name_of(self, identity: Identity) -> bytes | None:
        """Return the path in the view of the program that a copy was made of."""
        return self._names.get(identity)

    def close(self) -> None:
        """Close every copy."""
        while self._copies:
            os.close(self._copies.popitem()[1][0])
        self._bytes = 0


def _copy(program: int, header: int, loader: bytes, name: bytes) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    shown = name[:200] or b"program"
    try:
        made = os.memfd_create(os.fsdecode(shown), flags | _EXECUTABLE)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        made = os.memfd_create(os.fsdecode(shown), flags)  # before 6.3
    try:
        end = _copy_data(program, made)
        os.pwrite(made, loader + b"\0", end)
        old = _SEGMENT.unpack(os.pread(program, _SEGMENT.size, header))
        size = len(loader) + 1
        os.pwrite(made, _SEGMENT.pack(*old[:2], end, *old[3:5], size, size, old[7]), header)
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, _SEALS)
        # A file that is open for writing does not run (ETXTBSY).
        return os.open(b"/proc/self/fd/%d" % made, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made)


def _copy_data(program: int, made: int) -> int:
    """Copy what is no hole, and return the size; ENOMEM where that is too much."""
    at, left, size = 0, _LARGEST, os.fstat(program).st_size
    while at < size:
        try:
            at = os.lseek(program, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != ENXIO:
                raise
            break  # nothing but a hole follows
        end = os.lseek(program, at, os.SEEK_HOLE)
        left -= end - at
        if left < 0:
            raise OSError(ENOMEM, "a program too large to be copied")
        os.lseek(made, at, os.SEEK_SET)
        while at < end and (count := os.sendfile(made, program, at, min(_CHUNK, end - at))):
            at += count
        if at < end:  # it was cut meanwhile
            break
    os.truncate(made, size)
    return size
