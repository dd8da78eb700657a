"""One walk through the view, component by component.

Symlinks and `..` are followed inside the view, and links of /proc are the caller's. Every object that is passed is
pinned by an O_PATH fd and known by its identity before the next step is made from it, so neither a renamed parent nor
a name that flips leads around a mark.
"""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, ELOOP, ENOENT, ENOTDIR, EXDEV
from stat import S_ISDIR
from typing import TYPE_CHECKING, assert_never

from sandlock_notif.errors import Refusal
from sandlock_notif.fs.how import CREATE, NO_FOLLOW, PARENT, Limits, UncachedError
from sandlock_notif.fs.location import Location
from sandlock_notif.fs.magic import link_text, mount_id
from sandlock_notif.fs.marks import Awaited, Hidden, Mounted, Place, Refused
from sandlock_notif.fs.mount import MOUNTED
from sandlock_sys.walk import Flag, Marks, Outcome, Walker, climb

if TYPE_CHECKING:
    from sandlock_notif.fs.marks import Rule
    from sandlock_notif.fs.mount import Mount
    from sandlock_notif.fs.view import View
    from sandlock_notif.request import Request
    from sandlock_sys.walk import Walked

__all__ = ["Resolution"]

_CACHED, _JUDGED, _STOP_UP = int(Flag.CACHED), int(Flag.JUDGED), int(Flag.STOP_UP)
_HOPS = 40  # MAXSYMLINKS, linux/namei.h
_END, _ABSENT, _LINK, _MARK, _UP = (
    int(o) for o in (Outcome.END, Outcome.ABSENT, Outcome.LINK, Outcome.MARK, Outcome.UP)
)
_SLASH = 0x2F


class Resolution:
    """One walk, step by step. It owns every fd that it opens until its end."""

    def __init__(self, view: View, request: Request, flags: int, limits: Limits | None, wait: bool) -> None:
        self._view = view
        self._request = request
        self._flags = flags
        self._limits = limits
        self._walker = Walker() if wait else view.walker
        stop_up = 0 if limits is None else _STOP_UP
        self._how = flags & (NO_FOLLOW | PARENT) | (0 if wait else _CACHED) | stop_up
        self._held: list[int] = []
        self._hops = _HOPS
        self._start = -1
        self._here = -1
        self._rest = b""
        self._judged = False
        self._directory = -1
        self._plain: list[Mount] = []  # passed by the name that they have on the host

    def run(self, start: int, path: bytes, mount: Mount | None = None, position: bytes = b"") -> Location:
        """Walk from the directory `start`, borrowed, or from `position` in a copy-on-write mount, along `path`."""
        self._start = self._here = start
        self._rest = path
        try:
            return self._run() if mount is None else self.run_in(mount, position, path)
        finally:
            for fd in self._held:
                os.close(fd)

    def _run(self) -> Location:
        view = self._view
        while True:
            flags = self._how | (_JUDGED if self._judged else 0)
            walked = self._walker.walk(self._here, self._rest, flags, view.table.marks)
            directory, found, outcome, error = walked[:4]
            self._held += [fd for fd in (directory, found) if fd >= 0]
            self._directory = directory if directory >= 0 else self._here
            if outcome == _END:
                return self._end(walked)
            if outcome == _ABSENT:
                return self._absent(self._rest[walked[4] :])
            if outcome == _LINK:
                place = self._link(walked)
            elif outcome == _MARK:
                place = self._mark(walked)
            elif outcome == _UP:
                place = self._up(walked)
            elif error == EAGAIN and self._how & _CACHED:
                raise UncachedError
            else:
                raise Refusal(error)
            if place is not None:
                return place

    def _take(self, fd: int) -> int:
        """Return `fd` for the caller to own: ours, or a copy of a borrowed one."""
        if fd in self._held:
            self._held.remove(fd)
            return fd
        return os.dup(fd)

    def _end(self, walked: Walked) -> Location:
        _, found, _, _, begin, end, device, inode, mode, _ = walked
        limits = self._limits
        if found >= 0 and limits is not None and limits.no_cross and mount_id(found) != mount_id(self._start):
            raise Refusal(EXDEV)
        if begin == end:  # no name leads here: `/`, or a dot at the end
            here = self._take(found if found >= 0 else self._here)
            return Location(here, b"/" if self._flags & PARENT else b".", here, (device, inode), mode)
        name = self._rest[begin:] if self._flags & PARENT else self._rest[begin:end]
        directory = self._take(self._directory)
        if found < 0:  # `.` or `..` as what is to be made or removed: the kernel refuses them all
            return Location(directory, name, -1, None, 0)
        return Location(directory, name, self._take(found), (device, inode), mode)

    def _absent(self, name: bytes) -> Location:
        if not self._flags & (CREATE | PARENT):
            raise Refusal(ENOENT)
        return Location(self._take(self._directory), name)

    def _link(self, walked: Walked) -> Location | None:
        """Go on where a symlink points."""
        found, begin, end, device = walked[1], walked[4], walked[5], walked[6]
        limits = self._limits
        self._hops -= 1
        if self._hops < 0 or (limits is not None and limits.no_links):
            raise Refusal(ELOOP)
        magic = self._view.magic
        name, tail = self._rest[begin:end], self._rest[end:]
        if not magic.is_proc(device, found):
            self._await_none_for(found)
            self._splice(link_text(found), tail, self._directory)
            return None
        text = magic.text(self._request, self._directory, name)
        if text is not None:
            self._splice(text, tail, self._directory)
            return None
        if limits is not None and (limits.no_cross or limits.beneath or limits.in_root):
            raise Refusal(EXDEV)
        if limits is not None and limits.no_magic:
            raise Refusal(ELOOP)
        target = magic.follow(self._request, self._directory, name)
        if target is None:
            self._splice(b"/", tail, self._directory)
            return None
        self._held.append(target)
        self._await_none_for(target)
        original = self._view.original(os.fstat(target)) if name == b"exe" else None
        if original is not None:
            self._splice(original, tail, self._directory)
            return None
        return self._jump(target, tail)

    def _await_none_for(self, fd: int) -> None:
        """Refuse to ask the server of a file system about what `fd` leads to, in the loop."""
        self._view.systems.check(fd, wait=not self._how & _CACHED)

    def _jump(self, target: int, tail: bytes) -> Location | None:
        """Go on from an fd that a magic link gave."""
        view = self._view
        mount = view.mount_of(target, stored=b".." in tail.split(b"/"))
        if mount is not None and mount.cow is not None:
            found = os.fstat(target)
            if tail.strip(b"/"):
                return self.run_in(mount, mount.cow.directory_of(target), tail)
            identity, mode = (found.st_dev, found.st_ino), found.st_mode
        else:
            identity, mode = view.origins.check(target)
            if not S_ISDIR(mode):
                view.origins.check_file(view.host_root, target)
        if tail and not S_ISDIR(mode):
            raise Refusal(ENOTDIR)
        if not tail.strip(b"/"):
            return view.placed(Location(-1, b"", self._take(target), identity, mode))
        self._here, self._rest, self._judged = target, tail, False
        return None

    def _follow(self, text: bytes, tail: bytes) -> None:
        """Go on along a generated link in the directory that the walk is in."""
        limits = self._limits
        self._hops -= 1
        if self._hops < 0 or (limits is not None and limits.no_links):
            raise Refusal(ELOOP)
        self._splice(text, tail, self._here)

    def _splice(self, text: bytes, tail: bytes, directory: int) -> None:
        """Go on along the text of a link."""
        if not text:
            raise Refusal(ENOENT)
        limits = self._limits
        self._here = directory
        if text[0] == _SLASH:
            if limits is not None and limits.beneath:
                raise Refusal(EXDEV)
            self._here = self._start if limits is not None and limits.in_root else self._view.root
            # The kernel has not looked up its root yet when a path begins elsewhere, and takes it for another mount.
            if limits is not None and limits.no_cross and self._start != self._view.root:
                raise Refusal(EXDEV)
        self._rest, self._judged = text + tail, False

    def _mark(self, walked: Walked) -> Location | None:
        """Go on from, or end at, a marked object."""
        found, begin, end, device, inode, mode, last = walked[1], *walked[4:6], *walked[6:]
        mark = self._view.table.get((device, inode))
        if mark is not None and mark.denied:
            raise Refusal(EACCES, mark.denied)
        if mark is not None and mark.root_of is not None and mark.root_of.cow is not None:
            return self.run_in(mark.root_of, b"", self._rest[0 if found < 0 else end :])
        started = found < 0
        mount = None if mark is None else mark.root_of
        if mount is not None and not started and self._rest[begin:end] != b"..":
            self._plain.append(mount)
        if not started and last:
            slash = len(self._rest) > end
            if slash and not self._flags & PARENT and not S_ISDIR(mode):
                raise Refusal(ENOTDIR)
            return self._end(walked)
        self._here = self._here if started else found
        self._rest, self._judged = self._rest[0 if started else end :].lstrip(b"/"), True
        while self._rest.startswith(b"./") and not (self._flags & PARENT and not self._rest[2:].strip(b"/")):
            self._rest = self._rest[2:].lstrip(b"/")
        if mark is None or self._rest in (b"", b"."):
            return None
        name, slash_, tail = self._rest.partition(b"/")
        if name == b"..":
            if self._flags & PARENT and not tail.strip(b"/"):
                return Location(self._take(self._here), name + slash_ + tail)  # the kernel refuses to act on it
            if mount is not None and mount not in self._plain:
                self._splice(mount.above, slash_ + tail, self._view.root)
            return None
        rule = mark.rule(self._request, name)
        return None if rule is None else self._apply(rule, name, slash_ + tail)

    def _apply(self, rule: Rule, name: bytes, tail: bytes) -> Location | None:
        """Follow what a marked directory says about a name in it."""
        last = not tail.strip(b"/")
        match rule:
            case Refused(reason):
                raise Refusal(EACCES, reason)
            case Hidden():
                raise Refusal(ENOENT)
            case Awaited():
                return self._await(rule, name, tail)
            case Mounted(mount):
                return self._enter(mount, tail)
            case Place(file):
                if file.is_link and not (last and self._flags & (NO_FOLLOW | PARENT) and not tail):
                    self._follow(file.generate(self._view.process(self._request)), tail)
                    return None
                if tail and not self._flags & PARENT:
                    raise Refusal(ENOTDIR)
                place = Location(self._take(self._here), name + tail)
                place.file = file
                return place
            case _:
                assert_never(rule)

    def _enter(self, mount: Mount, tail: bytes) -> Location | None:
        """Step to what appears under a name; whoever would make, move or remove the name itself is refused."""
        found = os.fstat(mount.root)
        if not tail.strip(b"/") and self._flags & PARENT:
            raise Refusal(self._view.busy_errno(self._request, folder=S_ISDIR(found.st_mode)), MOUNTED)
        if self._limits is not None and self._limits.no_cross:
            raise Refusal(EXDEV)
        if S_ISDIR(found.st_mode):
            self._plain = [passed for passed in self._plain if passed is not mount]
            self._here, self._rest, self._judged = mount.root, tail.lstrip(b"/"), False
            return None
        if tail:
            raise Refusal(ENOTDIR)
        identity = found.st_dev, found.st_ino
        mark = self._view.table.get(identity)
        if mark is not None and mark.denied:
            raise Refusal(EACCES, mark.denied)
        return Location(-1, b"", os.dup(mount.root), identity, found.st_mode)

    def _await(self, rule: Awaited, name: bytes, tail: bytes) -> Location | None:
        """Step to a name on the way to a denied one that was absent, and mark what is there now."""
        step = self._walker.walk(self._here, name, self._how & _CACHED | NO_FOLLOW | _JUDGED, Marks(()))
        directory, found, outcome, error = step[:4]
        self._held += [fd for fd in (directory, found) if fd >= 0]
        if error == EAGAIN and self._how & _CACHED:
            raise UncachedError
        if outcome == _END and S_ISDIR(step[8]):
            self._view.expect(os.dup(found), rule)
        elif outcome == _END:
            raise Refusal(EACCES, "it stands where the path to a denied one leads")
        elif not tail.strip(b"/") and outcome == _ABSENT and self._flags & (CREATE | PARENT):
            place = Location(self._take(self._here), name + tail)
            place.awaited = rule
            return place
        return None  # walked as any other; the mark, if there is one now, is met there

    def _up(self, walked: Walked) -> Location | None:
        """Go up one directory, but not out of where the walk has to stay."""
        end = walked[5]
        limits = self._limits
        fence = self._start if limits is not None and (limits.beneath or limits.in_root) else -1
        self._rest, self._judged = self._rest[end:] or b".", False
        at = self._directory
        self._await_none_for(at)
        if fence >= 0:
            root = os.fstat(fence)
            identity = root.st_dev, root.st_ino
            here = os.fstat(at)
            if (here.st_dev, here.st_ino) == identity:
                if limits is not None and limits.beneath:
                    raise Refusal(EXDEV)
                self._here = at
                return None
            if climb(at, Marks([identity])) is None:
                raise Refusal(EXDEV if limits is not None else ENOENT)
        else:
            root = os.fstat(at)
            mark = self._view.table.get((root.st_dev, root.st_ino))
            mount = None if mark is None else mark.root_of
            if mount is not None and mount not in self._plain:
                self._splice(mount.above, self._rest, self._view.root)
                return None
        try:
            above = os.open(b"..", os.O_PATH | os.O_CLOEXEC, dir_fd=at)
        except OSError as error:
            raise Refusal(error.errno or EACCES) from error
        self._held.append(above)
        self._here = above
        return None

    def run_in(self, mount: Mount, position: bytes, tail: bytes) -> Location:
        """Go on inside a copy-on-write mount, where names are asked of the branch; it follows nothing itself."""
        assert mount.cow is not None  # noqa: S101  # the caller asked for it
        try:
            return self._in_branch(mount, position, tail)
        except OSError as error:
            raise Refusal(error.errno or EACCES) from error

    def _in_branch(self, mount: Mount, position: bytes, tail: bytes) -> Location:
        from sandlock_notif.fs.branch_walk import BranchWalk  # lazy: loaded with the layer of the branch, or not at all

        how = BranchWalk(self._view, mount, self._flags, self._limits)
        while True:
            place, text, rest = how.run(position, tail)
            if place is not None:
                return place
            if how.rule is not None:
                place = self._in_branch_rule(how.rule, how.name, rest)
                if place is not None:
                    return place
            elif text is None:  # `..` leads out of the mount
                self._splice(mount.above, rest, self._view.root)
            else:
                self._hops -= 1
                if self._hops < 0 or (self._limits is not None and self._limits.no_links):
                    raise Refusal(ELOOP)
                if not text.startswith(b"/"):
                    position, tail = how.position, text + rest
                    continue
                self._splice(text, rest, self._view.root)
            return self._run()

    def _in_branch_rule(self, rule: Rule, name: bytes, tail: bytes) -> Location | None:
        """Follow what the view says about a name of a branch."""
        match rule:
            case Place(file):
                if file.is_link or (tail and not self._flags & PARENT):
                    raise Refusal(ENOTDIR)
                place = Location(-1, name + tail)
                place.file = file
                return place
            case Mounted(mount):
                return self._enter(mount, tail)
            case Hidden():
                raise Refusal(ENOENT)
            case Refused(reason):
                raise Refusal(EACCES, reason)
            case Awaited():
                raise Refusal(EACCES)  # branches know whole paths, and await none
            case _:
                assert_never(rule)
