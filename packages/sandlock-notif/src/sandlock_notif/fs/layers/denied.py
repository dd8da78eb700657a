"""Denied paths: refused for every operation, by identity, so that no other name of the same object helps.

Of each path are denied: what it leads to, with everything below; the name itself, so that nothing can take its place;
and, where it is not there yet, the names that lead to it. Objects inside a denied directory that have further names
(hard links, or a directory mounted elsewhere) are looked for when the path is denied.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from errno import EACCES, ELOOP, ENOENT, ENOTDIR
from stat import S_ISDIR
from typing import TYPE_CHECKING

from sandlock_notif.errors import NotifError
from sandlock_notif.fs.marks import Awaited, Refused
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from sandlock_notif.fs.marks import Identity, Mark, Rule
    from sandlock_notif.fs.view import View

__all__ = ["DeniedLayer"]

_HOPS = 40  # MAXSYMLINKS, linux/namei.h


@dataclass(slots=True)
class _Denial:
    """What one denied path led to when it was denied.

    Attributes:
        path: as it was given, absolute.
        objects: O_PATH fds of what is denied, owned.
        names: (O_PATH fd of a directory, owned; the names from there, of which the last one is denied).
        below: further names' identities inside.

    """

    path: bytes
    objects: list[int] = field(default_factory=list)
    names: list[tuple[int, tuple[bytes, ...]]] = field(default_factory=list)
    below: dict[Identity, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        return f"{os.fsdecode(self.path)} is denied"

    def close(self) -> None:
        for fd in (*self.objects, *[fd for fd, _ in self.names]):
            os.close(fd)


class DeniedLayer:
    """The denied paths of a view.

    Arguments:
        view: that they are paths of.
        paths: denied from the start, for good.

    """

    def __init__(self, view: View, paths: Iterable[bytes]) -> None:
        self._view = view
        self._fixed = tuple(dict.fromkeys(_normal(path) for path in paths))
        self._denials: dict[tuple[bytes, bool], _Denial] = {}

    def __bool__(self) -> bool:
        return bool(self._fixed or self._denials)

    def attach(self) -> None:
        """Look at the paths that are denied from the start.

        Raises:
            OSError: one cannot be looked at.

        """
        for path in self._fixed:
            self._denials[path, True] = self._look(path)
        self._apply()

    def deny(self, path: bytes) -> None:
        """Deny a path from now on. What is open already stays open.

        Raises:
            ValueError: it is not absolute.
            OSError: it cannot be looked at.

        """
        key = _normal(path), False
        if key not in self._denials:
            self._view.table.aliases.look()
            self._denials[key] = self._look(key[0])
            self._apply()
            self._view.changed()

    def allow(self, path: bytes) -> None:
        """Undo `deny` of the same path; what is denied from the start stays denied."""
        denial = self._denials.pop((_normal(path), False), None)
        if denial is not None:
            self._strip(denial)
            self._apply()  # what other denials say too
            self._view.table.drop_empty()
            denial.close()
            self._view.changed()

    def _apply(self) -> None:
        """Write all denials into the view's table; writing one twice changes nothing."""
        table = self._view.table
        for denial in self._denials.values():
            for fd in denial.objects:
                table.pin(os.dup(fd)).denied = denial.reason
            for fd, names in denial.names:
                mount = self._view.mount_of(fd)
                if mount is not None and mount.cow is not None:
                    path = b"/".join([part for part in (mount.cow.path_of(fd), *names) if part])
                    mount.cow.rules[path] = Refused(denial.reason)
                else:
                    _refuse(table.pin(os.dup(fd)), names, denial.reason)
            table.deny_all(denial.below)

    def _strip(self, denial: _Denial) -> None:
        """Take a denial out of the table, wherever directories on the way to it were marked meanwhile."""
        table = self._view.table
        table.forget_extra(denial.below)
        for _, mark in table.pinned():
            if mark.denied == denial.reason:
                mark.denied = ""
            mark.names = _without(mark.names, denial.reason)
        for mount in self._view.mounts:
            if mount.cow is not None:
                mount.cow.rules = _without(mount.cow.rules, denial.reason)

    def _look(self, path: bytes) -> _Denial:
        denial = _Denial(path)
        try:
            self._trace(denial, path)
            for fd in list(denial.objects):
                if S_ISDIR(os.fstat(fd).st_mode):
                    denial.below.update(_other_names(fd, denial.reason, self._view.table.aliases))
        except BaseException:
            denial.close()
            raise
        return denial

    def _trace(self, denial: _Denial, path: bytes) -> None:
        """Follow `path` to its object, noting each place that a name for it stands in."""
        for _ in range(_HOPS):
            names = [name for name in path.split(b"/") if name]
            if not names:
                raise NotifError("the root cannot be denied")
            directory, rest = self._deepest(names[:-1])
            names = [*rest, names[-1]]
            denial.names.append((directory, tuple(names)))
            if rest:
                return  # not there yet
            try:
                found = openat2(directory, names[-1], os.O_PATH | os.O_NOFOLLOW, 0)
            except SyscallError as error:
                if error.errno == ENOENT:
                    return
                raise
            denial.objects.append(found)
            try:
                text = os.readlink(b"", dir_fd=found)
            except OSError as error:
                if error.errno != ENOENT:  # no symlink
                    raise
                return
            above = self._view.shown(os.readlink(b"/proc/self/fd/%d" % directory))
            path = os.path.normpath(os.path.join(above or b"/", text))
        raise NotifError(f"{denial.reason[:-10]}: too many symlinks")

    def _deepest(self, names: list[bytes]) -> tuple[int, list[bytes]]:
        """Return an fd of the deepest directory along `names` that is there, and the names after it."""
        for depth in range(len(names), -1, -1):
            try:
                path = b"/" + b"/".join(names[:depth])
                return self._view.find(path, os.O_DIRECTORY), names[depth:]
            except OSError as error:
                if error.errno not in (ENOENT, ENOTDIR, EACCES, ELOOP):
                    raise
        raise NotifError("the root of the view is gone")

    def close(self) -> None:
        """Close every fd."""
        for denial in self._denials.values():
            denial.close()
        self._denials.clear()


def _normal(path: bytes) -> bytes:
    """Return an absolute path without double slashes, dots and slashes at the end."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if not path.startswith(b"/") or b"\0" in path or b".." in names:
        raise ValueError(f"not an absolute path without `..`: {path!r}")
    return b"/" + b"/".join(names)


def _refuse(mark: Mark, names: tuple[bytes, ...], reason: str) -> None:
    """Refuse the last of `names`, and await those before it."""
    table: dict[bytes, Rule] = mark.names
    for name in names[:-1]:
        rule = table.get(name)
        if isinstance(rule, Refused):
            return  # denied as a whole already
        if not isinstance(rule, Awaited):
            rule = table[name] = Awaited({})
        table = rule.names
    table[names[-1]] = Refused(reason)


def _without(names: dict[bytes, Rule], reason: str) -> dict[bytes, Rule]:
    """Return the rules that remain without those that one denial made."""
    left: dict[bytes, Rule] = {}
    for name, rule in names.items():
        match rule:
            case Refused(why) if why == reason:
                continue
            case Awaited(further):
                further = _without(further, reason)
                if further:
                    left[name] = Awaited(further)
            case _:
                left[name] = rule
    return left


def _other_names(directory: int, reason: str, mounted: Container[Identity]) -> dict[Identity, str]:
    """Return what inside a directory may be reached by another way: directories, and files with several names."""
    found: dict[Identity, str] = {}
    levels: list[tuple[int, list[bytes]]] = [_list(directory, b".", found, reason, mounted)]
    try:
        while levels:
            listed, folders = levels[-1]
            if folders:
                levels.append(_list(listed, folders.pop(), found, reason, mounted))
            else:
                levels.pop()
                if listed >= 0:
                    os.close(listed)
    except BaseException:
        for listed, _ in levels:
            if listed >= 0:
                os.close(listed)
        raise
    return found


def _list(
    above: int, name: bytes, found: dict[Identity, str], reason: str, mounted: Container[Identity]
) -> tuple[int, list[bytes]]:
    """Note what one directory holds; return an fd of it (-1 when it cannot be read) and the directories in it."""
    try:
        listed = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return -1, []  # nobody of this user can go through it either; or it has just been removed
    folders: list[bytes] = []
    with os.scandir(listed) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if S_ISDIR(status.st_mode):
                found[status.st_dev, status.st_ino] = reason
                folders.append(os.fsencode(entry.name))
            elif status.st_nlink > 1 or (status.st_dev, status.st_ino) in mounted:
                found[status.st_dev, status.st_ino] = reason
    return listed, folders
