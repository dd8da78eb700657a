"""What only the child can do for itself where the view differs from the kernel's: chdir, and running programs."""

from __future__ import annotations

import asyncio
import os
from errno import EACCES, ELOOP, ENOEXEC, EPERM, ESRCH
from functools import partial
from stat import S_ISREG
from struct import pack
from typing import TYPE_CHECKING

from sandlock_notif.action import Answered, Errno
from sandlock_notif.errors import NotifError, Refusal, VanishedError
from sandlock_notif.fs.how import UncachedError
from sandlock_notif.fs.layers.host import object_path
from sandlock_notif.fs.loader import Loaders, interpreter_of
from sandlock_notif.fs.origin import AT_FDCWD
from sandlock_notif.fs.remote import ExecutedError, Remote, make_calls
from sandlock_notif.fs.resolve import resolve
from sandlock_notif.memory import read
from sandlock_notif.program import HEAD, parse_first_line
from sandlock_notif.tracing import Tracer
from sandlock_sys import inode
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_notif.action import Action
    from sandlock_notif.fs.layers.cow import CowLayer
    from sandlock_notif.fs.location import Location
    from sandlock_notif.fs.marks import Identity
    from sandlock_notif.handlers.files.serving import Files
    from sandlock_notif.request import Request

__all__ = ["Inside"]

_EMPTY_PATH, _EACCESS = 0x1000, 0x200  # AT_*, linux/fcntl.h
_MAX_WORDS = 1 << 16
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22  # PROT_*, MAP_*, asm-generic/mman-common.h
_SCRIPTS = 5  # that run each other, fs/exec.c


class Inside:
    """Lets children of one sandbox enter directories and run programs that only the view leads to.

    Attributes:
        image_look: gives the look at the image of a request, with the words that a script adds; None for no look.

    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._tracer = Tracer()
        self._letting: set[int] = set()
        self._loaders = Loaders()
        self.image_look: Callable[[Request, Sequence[bytes]], Callable[[int], None]] | None = None

    def lets(self, request: Request) -> bool:
        """Whether this call is one that we have the thread make."""
        return request.tid in self._letting

    async def chdir(self, request: Request, place: Location) -> Action:
        """Make the directory the caller's working directory."""
        cow = place.mount.cow if place.mount is not None else None
        if cow is None:
            return await self._chdir_host(request, place)
        try:
            held = self._files.unprivileged(lambda: _open_folder(cow, place.path))
        except OSError as error:
            return Errno(error.errno or EACCES, "a folder that may not be read cannot be entered here")
        return await self._with_fd(request, held, lambda remote, fd: remote.call("fchdir", fd))

    async def _chdir_host(self, request: Request, place: Location) -> Action:
        """Let the caller go where the kernel calls the directory by its name.

        No fd of it is given away: the sandbox need not be granted to read it. Who changes the name meanwhile is in
        another directory, and where a relative path starts is looked at each time one is used.
        """
        path = os.readlink(object_path(place.object)) + b"\0"

        def calls(remote: Remote) -> int:
            room = remote.call("mmap", 0, len(path), _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
            if room < 0:
                return room
            remote.write(room, path)
            result = remote.call("chdir", room)
            remote.call("munmap", room, len(path))
            return result

        return await self._make(request, calls)

    async def execute(self, request: Request, place: Location, path: bytes, words: tuple[int, int]) -> Action:
        """Run the program at `place`; `words` are the addresses of the arguments and the environment."""
        interpreter = b""
        added: list[bytes] = []
        current, shown = place, path
        try:
            for _ in range(_SCRIPTS):
                held = await self._open(current)
                if isinstance(held, Errno):
                    return held
                script = _script_of(held)
                if script is None:
                    held = await self._loadable(request, current, held)
                    break
                os.close(held)
                interpreter, argument = script
                added = [interpreter, *([argument] if argument else []), shown, *added[1:]]
                found = await self._find(request, interpreter)
                if current is not place:
                    current.close()
                current, shown = found, interpreter
                if current.mount is None and not self._files.view.moves:
                    held = -1
                    break
            else:
                return Errno(ELOOP)
        finally:
            if current is not place:
                current.close()
        try:
            pointers = self._pointers(request, words[0])
            look = None if self.image_look is None else self.image_look(request, added)
        except BaseException:
            if held >= 0:
                os.close(held)
            raise
        call = self._exec_calls(held, interpreter, added, pointers, words)
        if held < 0:
            held = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return await self._with_fd(request, held, call, look)

    async def _find(self, request: Request, path: bytes) -> Location:
        """Return the place of an interpreter or loader; waiting for a file system is done in a thread."""
        view = self._files.view
        try:
            return self._files.unprivileged(lambda: resolve(view, request, AT_FDCWD, path))
        except UncachedError:
            pass

        def wait() -> Location:
            return resolve(view, request, AT_FDCWD, path, wait=True)

        return await asyncio.get_running_loop().run_in_executor(view.systems.pool, wait)

    async def _loadable(self, request: Request, place: Location, program: int) -> int:
        """Return an fd of what runs as `program`, which is given away: itself, or a copy that names the view's loader.

        Raises:
            Refusal: the loader is not there, or is not to be run.

        """
        found = interpreter_of(program)
        if found is None:
            return program
        try:
            loader = await self._find(request, found[0])
            try:
                pinned = self._files.pin(loader)
                if self._same_for_kernel(request, found[0], pinned):
                    kept, program = program, -1
                    return kept
                named = self._name(place)
                return self._loaders.copy(program, found[1], os.readlink(object_path(pinned)), named)
            finally:
                loader.close()
        except OSError as error:
            raise Refusal(error.errno or EACCES, "the program cannot be made ready to run") from error
        finally:
            if program >= 0:
                os.close(program)

    def _same_for_kernel(self, request: Request, path: bytes, pinned: int) -> bool:
        """Whether the kernel, which knows no view, finds the same file by an absolute path."""
        if not path.startswith(b"/"):
            return False
        try:
            return os.path.samestat(os.stat(b"/proc/%d/root" % request.tid + path), os.fstat(pinned))
        except OSError:
            return False

    def _name(self, place: Location) -> bytes:
        """Return the path in the view of what is at a place."""
        if place.mount is not None and place.mount.cow is not None:
            return b"/".join([place.mount.at.rstrip(b"/"), place.path])
        return self._files.view.shown(os.readlink(object_path(place.object)))

    def name_of(self, copied: Identity) -> bytes | None:
        """Return the path in the view of the program that a copy was made of; None for any other file."""
        return self._loaders.name_of(copied)

    async def _open(self, place: Location) -> int | Errno:
        """Return an fd of a program that the caller may run and read: by its domain, where a deputy opens it."""
        cow = place.mount.cow if place.mount is not None else None
        if not S_ISREG(place.mode):
            return Errno(EACCES)
        try:
            if cow is not None:
                return self._files.unprivileged(partial(_open_program, cow, place.path))
            self._files.unprivileged(lambda: inode.access(place.object, os.X_OK, _EACCESS))
        except OSError as error:
            return Errno(error.errno or EACCES)
        done = await self._files.call("openat", AT_FDCWD, object_path(place.object), os.O_RDONLY | os.O_CLOEXEC, 0)
        return Errno(-done.result) if done.result < 0 else done.result

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
            if held >= 0:
                result = remote.call("execveat", fd, room, arguments, words[1], _EMPTY_PATH)
            else:
                result = remote.call("execve", offsets[added.index(interpreter)], arguments, words[1])
            remote.call("munmap", room, size)
            return result

        return calls

    async def _with_fd(
        self,
        request: Request,
        held: int,
        calls: Callable[[Remote, int], int],
        at_exec: Callable[[int], None] | None = None,
    ) -> Action:
        """Give the caller an fd for the time of some calls; ours is closed."""
        listener = request.listener
        try:
            number = listener.place(request.id, held, close_on_exec=True)
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

        return await self._make(request, all_calls, at_exec)

    async def _make(
        self, request: Request, calls: Callable[[Remote], int], at_exec: Callable[[int], None] | None = None
    ) -> Action:
        """Let the caller make calls in the place of its own."""
        listener, arch = request.listener, self._files.view.services.arch

        def answer() -> bool:
            # Safety: seized now, and still waiting: so it is the caller that was seized, and no other's thread.
            return listener.valid(request.id) and listener.answer(request.id, 0)

        def let(remote: Remote) -> int:
            # Only as long as the thread is ours: it makes no call of its own before this is over.
            self._letting.add(request.tid)
            try:
                return calls(remote)
            finally:
                self._letting.discard(request.tid)

        try:
            await self._tracer.run(lambda: make_calls(arch, request.tid, answer, let, at_exec))
        except (ExecutedError, ProcessLookupError):
            return Answered()
        except SyscallError as error:
            if error.errno == ESRCH:
                raise VanishedError from error
            return Errno(EPERM, f"the call cannot be made for the program: {error}")
        except NotifError:
            return Errno(EPERM, "the new image is not what was judged: the process was killed")
        return Answered()

    async def close(self) -> None:
        """End the tracer, and close what was kept."""
        await self._tracer.close()
        self._loaders.close()


def _open_folder(cow: CowLayer, path: bytes) -> int:
    """Return an fd of a directory of a branch: one to read, since the kernel gives no O_PATH fd to another process."""
    cow.branch.access(path, os.X_OK)
    found = cow.branch.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.open(object_path(found), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _open_program(cow: CowLayer, path: bytes) -> int:
    cow.branch.access(path, os.X_OK)
    return cow.branch.open(path, os.O_RDONLY)


def _script_of(program: int) -> tuple[bytes, bytes] | None:
    """Return interpreter and argument of a script, None for any other program; `program` is closed if this raises.

    Raises:
        Refusal: ENOEXEC for a script that the kernel does not run.

    """
    try:
        return parse_first_line(os.pread(program, HEAD, 0))
    except (OSError, ValueError) as error:
        os.close(program)
        raise Refusal(ENOEXEC) from error
