"""What only the child can do for itself inside a copy-on-write mount: chdir, and running programs of the branch."""

from __future__ import annotations

import os
from errno import EACCES, ELOOP, ENOEXEC, EPERM, ESRCH
from stat import S_ISDIR, S_ISREG
from struct import pack
from typing import TYPE_CHECKING

from sandlock_notif.action import Answered, Errno
from sandlock_notif.errors import Refusal, VanishedError
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.fs.remote import ExecutedError, Remote, make_calls
from sandlock_notif.fs.resolve import resolve
from sandlock_notif.memory import read
from sandlock_notif.tracing import Tracer
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.action import Action
    from sandlock_notif.fs.location import Location
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Inside", "parse_script"]

_EMPTY_PATH = 0x1000  # AT_EMPTY_PATH, linux/fcntl.h
_HEAD = 256  # BINPRM_BUF_SIZE, linux/binfmts.h: what the kernel looks at
_MAX_WORDS = 1 << 16
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22  # PROT_*, MAP_*, asm-generic/mman-common.h
_SCRIPTS = 5  # that run each other, fs/exec.c


class Inside:
    """Lets children of one sandbox enter directories and run programs of a branch."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._tracer = Tracer()
        self._letting: set[int] = set()

    def lets(self, request: Request) -> bool:
        """Whether this exec is one that we had the thread make."""
        return request.tid in self._letting

    async def chdir(self, request: Request, place: Location) -> Action:
        """Make the directory the caller's working directory."""
        cow = place.mount.cow if place.mount is not None else None
        assert cow is not None  # noqa: S101  # the caller asked for it
        try:
            cow.branch.access(place.path, os.X_OK)
            found = cow.branch.open(place.path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            return Errno(error.errno or EACCES)
        try:
            # The kernel gives no O_PATH fd to another process: one that may be read, or none.
            held = os.open(b"/proc/self/fd/%d" % found, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            return Errno(error.errno or EACCES, "a folder that may not be read cannot be entered in a branch")
        finally:
            os.close(found)
        return await self._with_fd(request, held, lambda remote, fd: remote.call("fchdir", fd), close_on_exec=True)

    async def execute(self, request: Request, place: Location, path: bytes, words: tuple[int, int]) -> Action:
        """Run the program at `place`; `words` are the addresses of the arguments and the environment."""
        interpreter = b""
        added: list[bytes] = []
        current, shown = place, path
        for _ in range(_SCRIPTS):
            held = self._open(current)
            if isinstance(held, Errno):
                return held
            script = parse_script(os.pread(held, _HEAD, 0))
            if script is None:
                break
            os.close(held)
            interpreter, argument = script
            added = [interpreter, *([argument] if argument else []), shown, *added[1:]]
            current, shown = resolve(self._files.view, request, AT_FDCWD, interpreter), interpreter
            if current.mount is None:
                current.close()
                held = -1
                break
            current.close()
        else:
            return Errno(ELOOP)
        pointers = self._pointers(request, words[0])
        call = self._exec_calls(held, interpreter, added, pointers, words)
        if held < 0:
            held = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return await self._with_fd(request, held, call, close_on_exec=True)

    def _open(self, place: Location) -> int | Errno:
        """Return an fd of a program that the caller may run."""
        cow = place.mount.cow if place.mount is not None else None
        assert cow is not None  # noqa: S101  # the caller asked for it
        if S_ISDIR(place.mode) or not S_ISREG(place.mode):
            return Errno(EACCES)
        try:
            cow.branch.access(place.path, os.X_OK)
            return cow.branch.open(place.path, os.O_RDONLY)
        except OSError as error:
            return Errno(error.errno or EACCES)

    def _pointers(self, request: Request, address: int) -> list[int]:
        """Return the pointers of the argument array."""
        found: list[int] = []
        while address and len(found) < _MAX_WORDS:
            pointer = int.from_bytes(read(request, address + 8 * len(found), 8), "little")
            if not pointer:
                return found
            found.append(pointer)
        if address:
            raise Refusal(ENOEXEC)
        return found

    def _exec_calls(
        self, held: int, interpreter: bytes, added: list[bytes], pointers: list[int], words: tuple[int, int]
    ) -> Callable[[Remote, int], int]:
        def calls(remote: Remote, fd: int) -> int:
            size = 4096 + sum(map(len, added)) + 8 * (len(added) + len(pointers) + 4)
            room = remote.call("mmap", 0, size, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
            if room < 0:
                return room
            arguments = words[0]
            offsets, text = [], b"\0" * 8  # the empty path is at the beginning
            for word in added:
                offsets.append(room + len(text))
                text += word + b"\0"
            text += b"\0" * (-len(text) % 8)
            if added:
                table = [*offsets, *pointers[1:], 0]
                arguments = room + len(text)
                text += pack(f"={len(table)}Q", *table)
            remote.write(room, text)
            self._letting.add(remote.tid)
            try:
                if held >= 0:
                    result = remote.call("execveat", fd, room, arguments, words[1], _EMPTY_PATH)
                else:
                    result = remote.call("execve", offsets[added.index(interpreter)], arguments, words[1])
            finally:
                self._letting.discard(remote.tid)
            remote.call("munmap", room, size)
            return result

        return calls

    async def _with_fd(
        self, request: Request, held: int, calls: Callable[[Remote, int], int], *, close_on_exec: bool
    ) -> Action:
        """Give the caller an fd for the time of some calls; ours is closed."""
        listener, arch = request.listener, self._files.view.services.arch
        try:
            number = listener.place(request.id, held, close_on_exec=close_on_exec)
        except SyscallError as error:
            return Errno(error.errno or EPERM)
        finally:
            os.close(held)
        if number is None:
            raise VanishedError
        child_fd = number

        def all_calls(remote: Remote) -> int:
            result = calls(remote, child_fd)
            remote.call("close", child_fd)
            return result

        def answer() -> bool:
            # Safety: seized now, and still waiting: so it is the caller that was seized, and no other's thread.
            return listener.valid(request.id) and listener.answer(request.id, 0)

        try:
            await self._tracer.run(lambda: make_calls(arch, request.tid, answer, all_calls))
        except ExecutedError:
            return Answered()
        except SyscallError as error:
            if error.errno == ESRCH:
                raise VanishedError from error
            return Errno(EPERM, f"the call cannot be made for the program: {error}")
        return Answered()

    async def close(self) -> None:
        """End the tracer."""
        await self._tracer.close()


def parse_script(head: bytes) -> tuple[bytes, bytes] | None:
    """Return interpreter and argument of a script's first line, None for what is no script.

    Raises:
        Refusal: ENOEXEC for a line that names nothing, as the kernel answers.

    """
    if not head.startswith(b"#!"):
        return None
    line = head[2:].split(b"\n", 1)[0].strip(b" \t")
    interpreter, _, argument = line.replace(b"\t", b" ").partition(b" ")
    if not interpreter or b"\0" in line:
        raise Refusal(ENOEXEC)
    return interpreter, argument.strip(b" ")
