"""execve: what runs is what was judged, and it runs with the changes that other domains make.

The kernel reads the arguments of execve again after we let it go, and many may write to them meanwhile: threads, tasks
that share the memory, whoever shares the page or writes to its file, a read that completes late. Not all of them can be
stopped, and stopping them would make spawners of many threads wait for each other. So nobody is stopped: the new image
is, before its first instruction. What the kernel put there is compared with what was judged, and another one is killed.
"""

from __future__ import annotations

from errno import E2BIG, EACCES, EPERM, ESRCH
from functools import partial
from typing import TYPE_CHECKING

from sandlock_arch.call_abi import ERESTARTNOINTR
from sandlock_arch.errors import ArchError
from sandlock_notif import memory
from sandlock_notif.action import CONTINUE, Action, Answered, Errno
from sandlock_notif.dispatch import HandlerTable, Services, Trap
from sandlock_notif.errors import NotifError, Refusal
from sandlock_notif.events import Event
from sandlock_notif.image import Image, Patches
from sandlock_notif.program import pin
from sandlock_notif.tracing import ExecGate, HeldError, Tracer, follow_exec
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlock_arch.stub import StubOperation
    from sandlock_notif.image import ImageChange
    from sandlock_notif.processes import Process
    from sandlock_notif.program import Program
    from sandlock_notif.request import Request

__all__ = ["Command", "ExecTable", "decide_same"]

_MAX_WORDS = 1 << 16
_MAX_BYTES = 6 << 20  # three quarters of _STK_LIM, fs/exec.c: the kernel takes no more
_MAX_WORD = 1 << 17  # MAX_ARG_STRLEN, linux/binfmts.h
_AT_FDCWD = -100


class Command:
    """What an execve was judged by: the path that the kernel calls the program, and its arguments."""

    __slots__ = ("arguments", "path")

    def __init__(self, path: bytes, arguments: Sequence[bytes]) -> None:
        self.path = path
        self.arguments = tuple(arguments)


class _ChangedError(NotifError):
    """Another program than the one that was judged."""


def decide_same(path: bytes, words: Sequence[bytes] | None, name: bytes, line: bytes) -> bool:
    """Tell whether an image is what the kernel makes of a judged command.

    Arguments:
        path: of the command.
        words: the arguments that the kernel makes of the command (`program.pin`); None where nothing may run.
        name: the path that the kernel was given.
        line: the arguments of the image, each with its NUL.

    """
    return words is not None and name == path and line == b"".join(word + b"\0" for word in words)


class ExecTable(HandlerTable):
    """Lets execve and execveat through, and looks at the new image before it runs.

    Arguments:
        changes: the domains that change images.
        verify: kill an image whose arguments are not those that could be read when the call was judged. Wanted where
            anybody judged them; tables that judge come before this one.
        killable: the filter was installed with WAIT_KILLABLE_RECV; see `follow_exec`.
        tracer: one of its own when None.

    Attributes:
        gate: through which every exec goes; shut while the tree is frozen.
        passing: execs are not followed: another holds the tasks, who makes their images and shows them to `adopt`.

    """

    name = "exec"

    def __init__(
        self,
        changes: Sequence[ImageChange] = (),
        *,
        verify: bool = False,
        killable: bool = True,
        tracer: Tracer | None = None,
    ) -> None:
        self._killable = killable
        self.gate = ExecGate()
        self.passing = False
        self._changes = changes
        self._verify = verify
        self._tracer = tracer if tracer is not None else Tracer()
        self._services: Services | None = None
        self._patches: Patches | None = None
        self._execveat = -1

    def traps(self) -> Sequence[Trap]:
        """Every exec."""
        reason = "the new image is looked at before it runs"
        return (Trap("execve", self._exec, reason, (), "task"), Trap("execveat", self._exec, reason, (), "task"))

    def attach(self, services: Services) -> None:
        """Take the child's architecture."""
        self._services = services
        self._patches = Patches(services.arch)
        self._execveat = services.arch.syscalls["execveat"]

    async def close(self) -> None:
        """End the tracer."""
        await self._tracer.close()

    def adopt(self, pid: int) -> None:
        """Look at the image of a process that the caller has stopped, and change it as a new one.

        What a program finds in its memory when it begins (`ImageChange.prepare`) is not written: this one began before.

        Raises:
            NotifError: it may not run.

        """
        operations, looks = self._wanted(None)
        self._look(pid, None, operations, looks)

    def look_at(self, request: Request, added: Sequence[bytes]) -> Callable[[int], None]:
        """Return the look at an image that another runs for the caller; to be called in the thread of its tracer.

        Arguments:
            request: the execve, which waits.
            added: the words that stand in the place of the first one, for a script.

        """
        compare = None
        if self._verify:
            at = request.nr == self._execveat
            words = read_words(request, request.args[2 if at else 1]) or [b""]
            line = b"".join(word + b"\0" for word in ([*added, *words[1:]] if added else words))

            def compare(image: Image) -> None:
                if image.command_line() != line:
                    raise _ChangedError

        operations, more = self._wanted(self._process(request))
        return lambda pid: self._look(pid, compare, operations, more)

    def _process(self, request: Request) -> Process:
        assert self._services is not None  # noqa: S101  # attached before the first request
        return self._services.processes.of(request)

    def _wanted(self, process: Process | None) -> tuple[dict[str, StubOperation], list[Callable[[Image], None]]]:
        """Return what is to be changed in the next image of a process, and looked at; None for one that goes on."""
        operations: dict[str, StubOperation] = {}
        more = []
        for change in self._changes:
            operations.update(change.stubs())
            prepare = change.prepare(process) if process is not None or not change.begins else None
            if prepare is not None:
                more.append(prepare)
        return operations, more

    async def _exec(self, request: Request) -> Action:
        services = self._services
        assert services is not None  # noqa: S101  # attached before the first request
        if self.passing:
            return CONTINUE
        command = read_command(request, at=request.nr == self._execveat) if self._verify else None
        operations, more = self._wanted(self._process(request))
        tid, notification, listener, killable = request.tid, request.id, request.listener, self._killable

        def let_go() -> bool:
            # Safety: seized now, and still waiting: so it is the caller that was seized, and no other's thread.
            return listener.valid(notification) and listener.let_continue(notification)

        def follow() -> None:
            program = pin(tid, command.path, command.arguments) if command is not None else None

            def look(pid: int) -> None:
                compare = None
                if command is not None and program is not None:
                    compare = partial(_compare, path=command.path, program=program)
                self._look(pid, compare, operations, more)

            try:
                follow_exec(tid, let_go, look, killable=killable)
            finally:
                if program is not None:
                    program.close()

        if not await self.gate.enter(tid):
            return Errno(ERESTARTNOINTR)
        try:
            await self._tracer.run(follow)
        except ProcessLookupError:
            return Answered()
        except HeldError:
            return Errno(ERESTARTNOINTR)
        except _ChangedError:
            reason = "the arguments of the exec were changed after they had been judged: the process was killed"
            services.report(Event("denied", services.arch.name_of(request.nr), tid, EPERM, reason))
        except SyscallError as error:
            if error.errno == ESRCH or not request.waits():  # it was killed meanwhile, by another thread's exec say
                return Answered()
            return Errno(EPERM, f"the exec cannot be followed: {error}")
        except NotifError:
            return Errno(EPERM)
        finally:
            await self.gate.leave()
        return Answered()

    def _look(
        self,
        pid: int,
        compare: Callable[[Image], None] | None,
        operations: Mapping[str, StubOperation],
        more: Sequence[Callable[[Image], None]],
    ) -> None:
        """Judge and change an image; in the thread of its tracer. Raises what kills it."""
        services, patches = self._services, self._patches
        assert services is not None and patches is not None  # noqa: S101, PT018  # as above
        image = Image(pid)
        try:
            if compare is not None:
                compare(image)
            if operations:
                image.change_vdso(patches, operations)
            for prepare in more:
                prepare(image)
        except (ArchError, SyscallError) as error:
            # A program that may be executed and not read shows its memory to nobody, and a foreign one has another
            # vDSO. Neither is a way out: time and randomness are conveniences, no walls (INF-09).
            if isinstance(error, SyscallError) and error.errno not in (EPERM, EACCES):
                raise
            event = Event("fault", "execve", pid, 0, f"the program runs unchanged: {error}")
            services.loop.call_soon_threadsafe(services.report, event)
        finally:
            image.close()


def _compare(image: Image, path: bytes, program: Program) -> None:
    """Raise _ChangedError for another program than the one that was judged, or one that cannot be looked at.

    Raises:
        ProcessLookupError: it has been killed; then it has no arguments any more.

    """
    name, itself, error = b"", False, None
    try:
        name = image.file_name()
        itself = program.file < 0 or image.runs(program.file)
    except OSError as found:
        error = found
    line = image.command_line()
    if not line:
        raise ProcessLookupError(ESRCH, f"process {image.pid} was killed")
    if error is not None or not itself or not decide_same(path, program.words, name, line):
        raise _ChangedError from error


def read_command(request: Request, *, at: bool) -> Command:
    """Return what an execve, or with `at` an execveat, asks for; from the copies that others judged.

    Raises:
        Refusal: EFAULT, E2BIG, ENAMETOOLONG, as the kernel answers.

    """
    path = memory.read_path(request, 1 if at else 0)
    if at and not path.startswith(b"/") and request.int_arg(0) != _AT_FDCWD:
        folder = b"/dev/fd/%d" % request.int_arg(0)  # what the kernel calls it, fs/exec.c
        path = folder + b"/" + path if path else folder
    return Command(path, read_words(request, request.args[2 if at else 1]))


def read_words(request: Request, pointer: int) -> list[bytes]:
    """Return the strings of a NULL-terminated array of pointers; none for a NULL array."""
    words: list[bytes] = []
    total = 0
    while pointer and len(words) < _MAX_WORDS:
        address = int.from_bytes(memory.read(request, pointer + 8 * len(words), 8), "little")
        if not address:
            return words
        words.append(memory.read_string(request, address, _MAX_WORD))
        total += len(words[-1]) + 1
        if total > _MAX_BYTES:
            raise Refusal(E2BIG)
    if pointer:
        raise Refusal(E2BIG)
    return words
