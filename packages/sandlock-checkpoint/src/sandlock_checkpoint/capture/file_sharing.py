"""Find out which descriptors refer to one open file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from errno import ENOSYS, EPERM
from typing import Protocol, TypeVar

from sandlock_sys import kcmp, pidfd
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import FdInfo

__all__ = ["group_files"]


class _Descriptor(Protocol):
    @property
    def pid(self) -> int: ...
    @property
    def fd(self) -> int: ...
    @property
    def info(self) -> FdInfo: ...
    @property
    def device(self) -> int: ...
    @property
    def inode(self) -> int: ...
    @property
    def text(self) -> bytes: ...


_One = TypeVar("_One", bound=_Descriptor)


def group_files(descriptors: Iterable[_One]) -> list[list[_One]]:
    """Return the descriptors in groups, each of one open file, in the order of their first members.

    Only those that agree in file, flags and offset are compared, since one open file has one of each.
    """
    groups: list[list[_One]] = []
    alike: dict[tuple[object, ...], list[list[_One]]] = {}
    for one in descriptors:
        key = (one.device, one.inode, one.text, one.info.flags & ~os.O_CLOEXEC, one.info.position)
        for group in alike.setdefault(key, []):
            if _same(group[0], one):
                group.append(one)
                break
        else:
            group = [one]
            alike[key].append(group)
            groups.append(group)
    return groups


def _same(one: _Descriptor, other: _Descriptor) -> bool:
    try:
        return kcmp.compare_files(one.pid, one.fd, other.pid, other.fd) == 0
    except SyscallError as error:
        if error.errno not in {ENOSYS, EPERM}:
            raise
    return _same_by_flags(one, other)


def _same_by_flags(one: _Descriptor, other: _Descriptor) -> bool:
    """Tell by an experiment, where there is no kcmp(2): a flag set through one is seen through the other.

    Safety: the processes are stopped, and the flag is put back before they run.
    """
    copies = [_copy(one), _copy(other)]
    try:
        flags = fcntl.fcntl(copies[0], fcntl.F_GETFL)
        fcntl.fcntl(copies[0], fcntl.F_SETFL, flags ^ os.O_NONBLOCK)
        try:
            return bool((fcntl.fcntl(copies[1], fcntl.F_GETFL) ^ flags) & os.O_NONBLOCK)
        finally:
            fcntl.fcntl(copies[0], fcntl.F_SETFL, flags)
    finally:
        for copy in copies:
            os.close(copy)


def _copy(one: _Descriptor) -> int:
    process = pidfd.open_pidfd(one.pid)
    try:
        return pidfd.getfd(process, one.fd)
    finally:
        os.close(process)
