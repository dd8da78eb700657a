"""Generated files: names of the view whose content is made when they are opened, and names that are not there.

    layer = VirtualLayer()
    layer.add(b"/etc/hosts", lambda process: hosts)
    layer.add_in_process(b"mounts", lambda process: ...)     # /proc/PID/mounts, /proc/self/mounts, /proc/mounts
    layer.hide_processes()                                   # foreign ones, by every alias

A generated file belongs to its name: whatever really is there cannot be reached by it, and need not exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from errno import EACCES, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, TypeAlias

from sandlock_notif.errors import Refusal
from sandlock_notif.fs.marks import Awaited, Hidden, Place
from sandlock_sys.proc import read_stat

if TYPE_CHECKING:
    from sandlock_notif.fs.marks import Mark, Rule
    from sandlock_notif.fs.view import View
    from sandlock_notif.processes import Process, Processes
    from sandlock_notif.request import Request

__all__ = ["Generate", "VirtualFile", "VirtualLayer"]

Generate: TypeAlias = "Callable[[Process], bytes]"
_Tell: TypeAlias = "Callable[[int], bytes]"


@dataclass(frozen=True, slots=True)
class VirtualFile:
    """One generated file, or a generated symlink.

    Attributes:
        generate: gives the content for a process that opens it, or where the symlink points.
        is_link: it is a symlink.

    """

    generate: Generate
    is_link: bool = False


class VirtualLayer:
    """The generated files of a view, made before the launch."""

    def __init__(self) -> None:
        self._rules: dict[bytes, Rule] = {}
        self._in_process: dict[bytes, Rule] = {}
        self._of_process: dict[bytes, _Tell] = {}
        self._hides = False

    def __bool__(self) -> bool:
        return bool(self._rules or self._in_process or self._of_process or self._hides)

    @property
    def filters(self) -> bool:
        """Whether listings of directories have to be served."""
        return bool(self)

    def add(self, path: bytes, generate: Generate) -> None:
        """Let `path`, absolute, be a file with what `generate` returns for the process that opens it.

        It is not there when its directory is not. `generate` runs in the loop's thread: it may not wait.
        """
        self._rules[_split(path)[0] + b"/" + _split(path)[1]] = Place(VirtualFile(generate))

    def hide(self, path: bytes) -> None:
        """Let there be nothing at `path`, absolute."""
        self._rules[_split(path)[0] + b"/" + _split(path)[1]] = Hidden()

    def add_in_process(self, name: bytes, generate: Generate) -> None:
        """Let `name` in the /proc folder of each process, and of each of its threads, be such a file.

        `generate` is given the process that opens it. One folder between is understood: b"net/dev".
        """
        folder, _, last = name.rpartition(b"/")
        if not folder:
            self._in_process[last] = Place(VirtualFile(generate))
            return
        rule = self._in_process.setdefault(folder, Awaited({}))
        if not isinstance(rule, Awaited) or b"/" in folder:
            raise ValueError(f"not a name in a process's folder: {name!r}")
        rule.names[last] = Place(VirtualFile(generate))

    def add_of_process(self, name: bytes, tell: _Tell) -> None:
        """Let `name` in the /proc folder of each process be a file with what `tell` returns for that process's id.

        It raises OSError for one that is gone, and may not wait.
        """
        self._of_process[name] = tell

    def hide_others_in_process(self, folder: bytes) -> None:
        """Let nothing but what was added be in that folder of each process."""
        rule = self._in_process[folder]
        assert isinstance(rule, Awaited)  # noqa: S101  # what `add_in_process` made of it
        self._in_process[folder] = Awaited(rule.names, lambda *_: Hidden(), transient=True, filtered=True)

    def hide_processes(self) -> None:
        """Let /proc show the sandbox's own processes only."""
        self._hides = True

    def attach(self, view: View) -> None:
        """Put the names into the view.

        Raises:
            OSError: a folder of them cannot be looked at.

        """
        for path, rule in self._rules.items():
            folder, name = _split(path)
            directory = _open(view, folder)
            if directory >= 0:
                view.say(directory, name, rule)
        if self._hides or self._in_process or self._of_process:
            directory = _open(view, b"/proc")
            if directory >= 0:
                folders = _ProcessFolders(view, self._in_process, self._of_process, self._hides)
                folders.enter(view.table.pin(directory))


class _ProcessFolders:
    """What names in /proc mean."""

    def __init__(self, view: View, names: dict[bytes, Rule], own: dict[bytes, _Tell], hides: bool) -> None:
        self._processes: Processes = view.services.processes
        self._view = view
        self._hides = hides
        self._own = own
        self._rules: dict[int, Awaited] = {}
        self._rule = Awaited(names, self._enter_process, transient=True) if names else None
        self._task = Awaited({}, self._thread, transient=True) if names else None
        self._device = 0
        view.services.processes.on_exit(self._ended)

    def enter(self, root: Mark) -> None:
        root.hook = self._name
        root.filtered = root.filtered or self._hides
        self._device = os.fstat(root.fd).st_dev

    def _name(self, request: Request, name: bytes) -> Rule | None:
        numbering = self._view.magic.numbering
        if name == b"self":
            leader = b"%d" % numbering.leader(request, self._device)
            return Place(VirtualFile(lambda _: leader, is_link=True))
        if name == b"thread-self":
            thread = numbering.thread_path(request, self._device)
            return Place(VirtualFile(lambda _: thread, is_link=True))
        if not name.isdigit():
            return None
        if self._hides and not self._processes.contains(int(name)):
            return Hidden()
        return self._rule_of(int(name)) if self._own else self._rule

    def _rule_of(self, pid: int) -> Rule:
        rule = self._rules.get(pid)
        if rule is None:
            names = dict(self._rule.names) if self._rule is not None else {}
            for name, tell in self._own.items():
                names[name] = Place(VirtualFile(self._made_by(pid, tell)))
            rule = Awaited(names, self._enter_process, transient=True)
            if self._processes.get(pid) is not None:  # somebody tells when it ends
                self._rules[pid] = rule
        return rule

    def _made_by(self, pid: int, tell: _Tell) -> Generate:
        known = self._processes.get(pid)

        def generate(_: Process) -> bytes:
            try:
                content = tell(pid)
            except OSError as error:
                raise Refusal(error.errno or EACCES) from error
            # Safety: the id may have been given to a process outside, before it was read or while it was.
            if self._hides and (known is None or _start_of(pid) != known.start):
                raise Refusal(ENOENT)
            return content

        return generate

    def _ended(self, process: Process) -> None:
        """Forget the folders of processes that are gone."""
        self._rules.pop(process.pid, None)
        for _, mark in self._view.table.pinned():
            if mark.transient and _belongs(mark.fd, process.pid):
                mark.names, mark.hook, mark.filtered = {}, None, False
        self._view.table.drop_empty()

    def _enter_process(self, request: Request, name: bytes) -> Rule | None:
        return self._task if name == b"task" else None

    def _thread(self, request: Request, name: bytes) -> Rule | None:
        return self._rule if name.isdigit() else None


def _start_of(pid: int) -> int:
    try:
        return read_stat(pid).starttime
    except OSError as error:
        raise Refusal(error.errno or EACCES) from error


def _belongs(folder: int, pid: int) -> bool:
    """Whether a folder of /proc is, or is below, that of a process that has ended, or of a thread that has."""
    names = os.readlink(b"/proc/self/fd/%d" % folder).removesuffix(b" (deleted)").split(b"/")
    if b"%d" % pid in names[:3]:
        return True
    try:
        os.stat(b"stat" if names[-1].isdigit() else b".", dir_fd=folder)
    except OSError:  # ENOENT or ESRCH: it has lost its task
        return True
    return False


def _split(path: bytes) -> tuple[bytes, bytes]:
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if not path.startswith(b"/") or not names or b".." in names:
        raise ValueError(f"not an absolute path of a file: {path!r}")
    return b"".join(b"/" + name for name in names[:-1]), names[-1]


def _open(view: View, folder: bytes) -> int:
    """Return an O_PATH fd, the caller's, of a directory of the view, -1 when it is not there."""
    try:
        return view.find(folder, os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            return -1
        raise
