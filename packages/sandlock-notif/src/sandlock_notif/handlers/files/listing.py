"""Listing directories whose names differ from the kernel's, or whose order is to be always the same.

The child's own fd is taken once and its position is used as the index into the listing, so rewinding, seeking and
sharing the fd with another process work as they do: the kernel keeps the position.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from errno import EBADF, EINVAL, ENOTDIR, EPERM
from stat import S_ISDIR
from struct import Struct
from typing import TYPE_CHECKING, TypeVar

from sandlock_notif.action import Errno, Value
from sandlock_notif.dispatch import Trap
from sandlock_notif.fs.marks import Hidden, Place
from sandlock_notif.memory import READ_MAX, write
from sandlock_sys import inode
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from sandlock_notif.action import Action
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.marks import Identity, Mark
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

    Entries: TypeAlias = list[tuple[bytes, int, int]]

Result = TypeVar("Result")

__all__ = ["Listing", "parse", "render"]

_HEADER = Struct("=QqHB")  # struct linux_dirent64, linux/dirent.h: d_ino, d_off, d_reclen, d_type, then the name
_OLD_HEADER = Struct("=QqH")  # struct linux_dirent of fs/readdir.c: the type is its last byte
_KEPT = 16  # listings of one process that are not read to their end
_CHUNK = 1 << 16
_REG, _LNK = 8, 10  # DT_REG, DT_LNK


class _Kept:
    """The listings that one process is in the middle of, by fd and directory."""

    def __init__(self) -> None:
        self.listings: OrderedDict[tuple[int, Identity], Entries] = OrderedDict()


class Listing:
    """Handlers of getdents.

    Arguments:
        files: the view.
        ordered: list every directory in the order of the names' bytes.

    """

    def __init__(self, files: Files, *, ordered: bool = False) -> None:
        self._files = files
        self._ordered = ordered

    def traps(self) -> list[Trap]:
        """The calls."""
        why = "names that the view hides, adds or orders"
        return [
            Trap("getdents64", lambda request: self._list(request, old=False), why, cost="memory"),
            Trap("getdents", lambda request: self._list(request, old=True), why, cost="memory"),
        ]

    def _list(self, request: Request, *, old: bool) -> Outcome:
        size = min(request.args[2] & 0xFFFFFFFF, READ_MAX)
        process = self._files.view.process(request)
        try:
            directory = process.take_fd(request.int_arg(0))
        except SyscallError as error:
            return Errno(EBADF if error.errno == EBADF else EPERM)
        try:
            found = os.fstat(directory)
            if not S_ISDIR(found.st_mode):
                return Errno(ENOTDIR)
            identity = found.st_dev, found.st_ino
            mark = self._files.view.table.get(identity)
            position = os.lseek(directory, 0, os.SEEK_CUR)
            mount = self._files.view.mount_of(directory)
            special = mark if mark is not None and mark.filtered else None
            if not self._ordered and special is None and mount is None:
                return self._as_it_is(request, os.dup(directory), size, old=old)
            key = request.int_arg(0), identity
            entries = process.state(_Kept).listings.get(key)
            if position == 0 or entries is None:
                return self._afresh(request, os.dup(directory), position, key, special, size, old=old)
            return _answer(request, directory, entries, position, size, old=old)
        except OSError as error:
            return Errno(error.errno or EINVAL)
        finally:
            os.close(directory)

    async def _as_it_is(self, request: Request, directory: int, size: int, *, old: bool) -> Action:
        """Read on in the kernel's own order, on the child's own open file."""
        try:
            content = await self._run(inode.getdents, directory, size)
            if old:
                content = _older(content)
            write(request, request.args[1], content)
            return Value(len(content))
        except OSError as error:
            return Errno(error.errno or EINVAL)
        finally:
            os.close(directory)

    async def _afresh(
        self,
        request: Request,
        directory: int,
        position: int,
        key: tuple[int, Identity],
        mark: Mark | None,
        size: int,
        *,
        old: bool,
    ) -> Action:
        """Take the whole listing, and answer with its beginning, or with what follows a position."""
        try:
            mount = self._files.view.mount_of(directory)
            if mount is not None and mount.cow is not None:
                entries = mount.cow.list(mount.cow.path_of(directory) or b"")
            else:
                entries = await self._run(_read_all, directory)
            if mark is not None:
                entries = _filtered(request, mark, entries)
            if self._ordered:
                entries.sort()
            kept = self._files.view.process(request).state(_Kept).listings
            kept[key] = entries
            while len(kept) > _KEPT:
                kept.popitem(last=False)
            return _answer(request, directory, entries, position, size, old=old)
        except OSError as error:
            return Errno(error.errno or EINVAL)
        finally:
            os.close(directory)

    async def _run(self, function: Callable[..., Result], *arguments: int) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._files.view.systems.pool, function, *arguments)


def _answer(request: Request, directory: int, entries: Entries, position: int, size: int, *, old: bool) -> Action:
    content, following = render(entries, position, size, old=old)
    if not content and position < len(entries):
        os.lseek(directory, position, os.SEEK_SET)
        return Errno(EINVAL)  # as the kernel says of a buffer that not even one entry fits into
    write(request, request.args[1], content)
    os.lseek(directory, following, os.SEEK_SET)
    return Value(len(content))


def _read_all(directory: int) -> Entries:
    """Return name, type and inode number of everything in a directory; the position is left at the end."""
    os.lseek(directory, 0, os.SEEK_SET)
    entries: Entries = []
    while content := inode.getdents(directory, _CHUNK):
        entries += parse(content)
    return entries


def _filtered(request: Request, mark: Mark, entries: Entries) -> Entries:
    """Return the entries without hidden names, and with the generated ones that are not there."""
    kept = [entry for entry in entries if not isinstance(mark.rule(request, entry[0]), Hidden)]
    there = {name for name, _, _ in entries}
    added = [
        (name, _LNK if rule.file.is_link else _REG, 1)
        for name, rule in mark.names.items()
        if isinstance(rule, Place) and name not in there
    ]
    return kept + added


def parse(content: bytes) -> Entries:
    """Return (name, d_type, d_ino) of each struct linux_dirent64."""
    entries: Entries = []
    at = 0
    while at < len(content):
        number, _, length, kind = _HEADER.unpack_from(content, at)
        name = content[at + _HEADER.size : at + length]
        entries.append((name[: name.index(0)], kind, number))
        at += length
    return entries


def render(entries: Sequence[tuple[bytes, int, int]], position: int, size: int, *, old: bool) -> tuple[bytes, int]:
    """Return as many entries from `position` on as fit into `size` bytes, and the position behind them.

    Each entry carries the position behind itself, to seek to. `old` is the format of getdents, else that of getdents64.
    """
    content = bytearray()
    for index in range(max(position, 0), len(entries)):
        name, kind, number = entries[index]
        if old:
            length = -(-(_OLD_HEADER.size + len(name) + 2) // 8) * 8
            entry = _OLD_HEADER.pack(number, index + 1, length) + name
            entry += bytes(length - len(entry) - 1) + bytes([kind])
        else:
            length = -(-(_HEADER.size + len(name) + 1) // 8) * 8
            entry = _HEADER.pack(number, index + 1, length, kind) + name
            entry += bytes(length - len(entry))
        if len(content) + length > size:
            return bytes(content), index
        content += entry
    return bytes(content), len(entries)


def _older(content: bytes) -> bytes:
    """Return struct linux_dirent64 entries as struct linux_dirent; each is as long, so they fit."""
    result = bytearray()
    at = 0
    while at < len(content):
        number, offset, length, kind = _HEADER.unpack_from(content, at)
        name = content[at + _HEADER.size : at + length].split(b"\0", 1)[0]
        size = -(-(_OLD_HEADER.size + len(name) + 2) // 8) * 8
        entry = _OLD_HEADER.pack(number, offset, size) + name
        result += entry + bytes(size - len(entry) - 1) + bytes([kind])
        at += length
    return bytes(result)
