"""The caller's own handlers, asked after the built-in ones: they can refuse, answer and replace, never allow more."""

from __future__ import annotations

import enum
import inspect
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EINVAL, EIO, EPERM
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from sandlock_arch import native
from sandlock_notif import memory
from sandlock_notif.action import CONTINUE, Action, Errno, Hold, InjectFd, Kill, Value
from sandlock_notif.dispatch import HandlerTable, Services, Trap
from sandlock_notif.errors import Refusal, VanishedError, shown
from sandlock_notif.events import Event
from sandlock_notif.lending import Lent
from sandlock_notif.runner import Runner
from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.seccomp.default import default_spec

if TYPE_CHECKING:
    from sandlock_notif.request import Request
    from sandlock_policy.seccomp.options import FilterOptions

__all__ = ["ExceptionPolicy", "Handler", "HandlerCtx", "NotifAction", "UserHandler", "UserTable", "has_path"]

# Calls that take a directory before the path.
_PATH_SECOND = frozenset(
    "openat openat2 execveat newfstatat statx faccessat faccessat2 readlinkat unlinkat mkdirat mknodat renameat "
    "renameat2 linkat fchmodat fchmodat2 fchownat utimensat futimesat name_to_handle_at inotify_add_watch "
    "setxattrat getxattrat listxattrat removexattrat fanotify_mark".split()
)
# Those whose first argument is a path.
_PATH_FIRST = frozenset(
    "open creat stat lstat access readlink unlink mkdir mknod rmdir rename link symlink chmod chown lchown truncate "
    "execve chdir statfs utime utimes chroot setxattr getxattr listxattr removexattr".split()
)


def has_path(call: str) -> bool:
    """Tell whether `HandlerCtx.read_path` finds a path among the arguments of this system call."""
    return call in _PATH_SECOND or call in _PATH_FIRST


class ExceptionPolicy(enum.Enum):
    """What becomes of a call whose handler raised, was late, or answered nonsense."""

    KILL = "kill"
    DENY_EPERM = "deny-eperm"
    DENY_EIO = "deny-eio"


class NotifAction:
    """What a handler answers; made by the class methods."""

    __slots__ = ("drop", "make")

    def __init__(self, make: Callable[[], Action | None], drop: Callable[[], None] | None = None) -> None:
        self.make = make
        """Makes the action, once, when the call is answered: nothing is opened for an answer that comes too late."""
        self.drop = drop
        """Frees what the caller gave, where the call is answered otherwise; None where nothing was given."""

    @classmethod
    def continue_(cls) -> NotifAction:
        """Leave the call to the next handler, and to the kernel after the last one."""
        return cls(lambda: None)

    @classmethod
    def errno(cls, number: int) -> NotifAction:
        """Let the call fail with this positive errno (1..4095); ValueError for any other number."""
        if not 1 <= number <= 4095:
            raise ValueError(f"an errno is 1..4095, not {number}")
        return cls(lambda: Errno(number, "a handler refused it"))

    @classmethod
    def returns(cls, value: int) -> NotifAction:
        """Let the call return `value`, signed 64-bit, without being run."""
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"a system call returns 64 bits, not {value}")
        return cls(lambda: Value(value))

    @classmethod
    def hold(cls) -> NotifAction:
        """Keep the task waiting until `HandlerCtx.release`; what is still held at the end is denied."""
        return cls(lambda: Hold(lambda _: None))

    @classmethod
    def kill(cls, signal: int = 9) -> NotifAction:
        """Send `signal` to the calling process; the call fails with EPERM should it survive."""
        if not 1 <= signal <= 64:
            raise ValueError(f"a signal is 1..64, not {signal}")
        return cls(lambda: Kill(signal, "a handler killed it"))

    @classmethod
    def inject_fd_send(cls, fd: int, newfd_flags: int = 0) -> NotifAction:
        """Give the task a copy of `fd`, whose number there the call returns. `fd` is closed here afterwards.

        For one call: the action answers no second one.

        Arguments:
            fd: yours until the handler returns, and then the supervisor's, also where nobody waits for it any more.
            newfd_flags: O_CLOEXEC or 0.

        """
        if newfd_flags & ~os.O_CLOEXEC:
            raise ValueError(f"newfd_flags may be O_CLOEXEC or 0, not {newfd_flags:#x}")
        given = _Given(fd)
        return cls(lambda: InjectFd(given.take(), close_on_exec=bool(newfd_flags)), given.close)

    @classmethod
    def inject_bytes(cls, data: bytes, *, seal: bool = True, cloexec: bool = True) -> NotifAction:
        """Give the task an fd of a memory file with `data`, at its beginning; sealed, it can never be changed."""
        content = bytes(data)
        return cls(lambda: InjectFd(_memory_file(content, seal=seal), close_on_exec=cloexec))


class _Given:
    """A caller's fd, until it is taken or closed; only the first counts, for the number may be another's then."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = [fd]

    def take(self) -> int:
        try:
            return self._fd.pop()
        except IndexError:
            raise ValueError("the fd of this action was given to an earlier call") from None

    def close(self) -> None:
        with suppress(IndexError, OSError):  # a caller's number that is no fd
            os.close(self._fd.pop())


@dataclass(frozen=True, slots=True)
class HandlerCtx:
    """One call, as a handler sees it. Its methods may be used from any thread until the call is answered.

    Attributes:
        id: of the notification.
        pid: the calling thread's id, as the host sees it.
        flags: of the notification; 0 so far.
        syscall_nr: the call's number on `arch`.
        arch: AUDIT_ARCH_*.
        instruction_pointer: the address after the system call instruction.
        args: six arguments, unsigned 64-bit.

    """

    id: int
    pid: int
    flags: int
    syscall_nr: int
    arch: int
    instruction_pointer: int
    args: tuple[int, ...]
    _request: Request
    _release: Callable[[Request, NotifAction], None]

    def read(self, addr: int, n: int) -> bytes:
        """Return `n` bytes (at most 1 MiB) at `addr` of the caller's memory; the same copy when read again.

        Raises:
            OSError: EFAULT and the like; ESRCH when the call no longer waits.

        """
        return _raising(lambda: memory.read(self._request, addr, n))

    def read_cstr(self, addr: int, max_len: int = memory.PATH_MAX) -> bytes:
        """Return the bytes before the NUL at `addr`; OSError ENAMETOOLONG without one in `max_len` bytes."""
        return _raising(lambda: memory.read_string(self._request, addr, max_len))

    def read_path(self, arg: int | None = None) -> bytes:
        """Return the path that argument number `arg` points to; the one that this call has its path in when None.

        Never let the kernel run a call because of what its path is: the program can change it meanwhile.
        """
        if arg is None:
            arg = 1 if native().name_of(self.syscall_nr) in _PATH_SECOND else 0
        return self.read_cstr(self.args[arg])

    def write(self, addr: int, data: bytes) -> None:
        """Write `data` at `addr` of the caller's memory; OSError as `read`."""
        _raising(lambda: memory.write(self._request, addr, data))

    def release(self, action: NotifAction) -> None:
        """Answer a call that `NotifAction.hold` keeps; only the first time counts."""
        self._release(self._request, action)


class Handler(ABC):
    """Base of handlers with an exception policy of their own; any function of a `HandlerCtx` will do as well."""

    on_exception: ExceptionPolicy = ExceptionPolicy.DENY_EPERM

    @abstractmethod
    def handle(self, ctx: HandlerCtx) -> NotifAction | Awaitable[NotifAction]:
        """Decide about one call."""


UserHandler: TypeAlias = Handler | Callable[[HandlerCtx], "NotifAction | Awaitable[NotifAction] | None"]


class UserTable(HandlerTable):
    """The handlers of one sandbox.

    Arguments:
        handlers: `(system call name or number, handler)`, asked in this order.
        options: what the filter denies anyway; a handler for such a call would never be asked.
        timeout_s: seconds until a handler that has not answered counts as failed.

    Raises:
        PolicyError: an unknown call, one that is denied, or something that cannot handle.

    """

    name = "handlers"
    while_parked = False

    def __init__(
        self, handlers: Sequence[tuple[str | int, UserHandler]], options: FilterOptions, timeout_s: float = 5.0
    ) -> None:
        self._timeout_s = timeout_s
        self._runner = Runner(_drop)
        self._services: Services | None = None
        self._held: dict[int, Callable[[Action], None]] = {}
        self._lock = threading.Lock()
        self._traps = tuple(self._traps_of(handlers, options))

    def traps(self) -> Sequence[Trap]:
        """Return one trap per registered handler."""
        return self._traps

    def attach(self, services: Services) -> None:
        """Remember the loop, for answers that come later."""
        self._services = services

    async def close(self) -> None:
        """Let the threads end."""
        self._runner.close()

    def _traps_of(self, handlers: Sequence[tuple[str | int, UserHandler]], options: FilterOptions) -> Sequence[Trap]:
        denied = _denied_calls(options)
        problems, traps = [], []
        for index, (call, handler) in enumerate(handlers):
            field, name = f"handlers[{index}]", native().name_of(call) if isinstance(call, int) else call
            if name not in native().syscalls:
                problems.append(Problem(field, repr(call), "no system call here has this name or number", "correct it"))
            elif name in denied:
                text = f"{name} is denied to every program, so this handler would never be asked"
                problems.append(Problem(field, repr(call), text, "leave it out"))
            elif not callable(handler.handle if isinstance(handler, Handler) else handler):
                problems.append(Problem(field, repr(handler), "is neither a Handler nor a function", "give either"))
            else:
                one = _Call(self, handler, self._timeout_s)
                traps.append(Trap(name, one.handle, "a handler of the caller's", (), "task", lent=one.lent))
        if problems:
            raise PolicyError(problems)
        return traps

    async def answer(self, call: _Call, request: Request, function: Callable[..., object]) -> Action | None:
        """Ask `function` in a thread, within the time, and return what comes of it."""
        try:
            given = await self._runner.run(function, self.seen(request), timeout_s=self._timeout_s)
        except Exception as error:  # noqa: BLE001  # whatever a caller's handler raises, the call is denied
            given = error
        return self.concluded(call, request, given)

    def seen(self, request: Request) -> HandlerCtx:
        """Return a request as a handler sees it."""
        ip = request.instruction_pointer
        return HandlerCtx(
            request.id, request.tid, 0, request.nr, request.arch, ip, request.args, request, self._release
        )  # fmt: skip

    def concluded(self, call: _Call, request: Request, given: object) -> Action | None:
        """Return the action that a handler's answer is, or, if it is an exception, what that costs the call."""
        if isinstance(given, Exception):
            return self._failed(request, given, call.policy)
        try:
            action = _action_of(given)
        except Exception as error:  # noqa: BLE001  # as above
            return self._failed(request, error, call.policy)
        return Hold(lambda release: self._hold(request, release)) if isinstance(action, Hold) else action

    def _failed(self, request: Request, error: Exception, policy: ExceptionPolicy) -> Action:
        if isinstance(error, VanishedError):
            return Errno(EPERM)
        if self._services is not None:
            text = f"a handler failed: {type(error).__name__}: {error}"
            self._services.report(Event("fault", native().name_of(request.nr), request.tid, EPERM, text))
        if policy is ExceptionPolicy.KILL:
            return Kill(reason="its handler failed")
        return Errno(EIO if policy is ExceptionPolicy.DENY_EIO else EPERM)

    def _hold(self, request: Request, release: Callable[[Action], None]) -> None:
        self._held[request.id] = release

    def _release(self, request: Request, answer: NotifAction) -> None:
        """Answer a held call from any thread."""

        def on_loop() -> None:
            release = self._held.pop(request.id, None)
            if release is None:
                _drop(answer)
                return
            try:
                action = _action_of(answer)
            except Exception as error:  # noqa: BLE001  # no fd left for what is injected; a call that waits is denied
                action = self._failed(request, error, ExceptionPolicy.DENY_EPERM)
            release(action if action is not None else CONTINUE)

        if self._services is None or self._services.loop.is_closed():
            _drop(answer)
        else:
            self._services.loop.call_soon_threadsafe(on_loop)


class _Call(Lent):
    """One handler, of one system call."""

    def __init__(self, table: UserTable, handler: UserHandler, timeout_s: float) -> None:
        self._table = table
        self._function = handler.handle if isinstance(handler, Handler) else handler
        self.policy = handler.on_exception if isinstance(handler, Handler) else ExceptionPolicy.DENY_EPERM
        self.timeout_s = timeout_s

    @property
    def lent(self) -> Lent | None:
        return None if inspect.iscoroutinefunction(self._function) else self

    def handle(self, request: Request) -> Awaitable[Action | None]:
        return self._table.answer(self, request, self._function)

    def ask(self, request: Request) -> object:
        return self._function(self._table.seen(request))

    def conclude(self, request: Request, given: object) -> object:
        if inspect.isawaitable(given):  # for the loop of callbacks
            return self._table.answer(self, request, lambda _: given)
        return self._table.concluded(self, request, given)

    def dispose(self, given: object) -> None:
        _drop(given)


@lru_cache(maxsize=16)  # the rules are many, and a sandbox runs more than once
def _denied_calls(options: FilterOptions) -> frozenset[str]:
    return frozenset(rule.syscall for rule in default_spec(options).rules if not rule.conditions)


def _drop(answer: object) -> None:
    """Free what an answer holds that nobody waits for."""
    if isinstance(answer, NotifAction) and answer.drop is not None:
        answer.drop()


def _action_of(answer: object) -> Action | None:
    if answer is None:
        return None
    if not isinstance(answer, NotifAction):
        raise TypeError(f"a handler answered {shown(answer)}, which is no NotifAction")
    return answer.make()


def _memory_file(data: bytes, *, seal: bool) -> int:
    fd = os.memfd_create("injected", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        if seal:
            fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _raising(transfer: Callable[[], bytes | None]) -> bytes:
    """Make the OSError that a caller knows of the refusals that the supervisor speaks in."""
    try:
        return transfer() or b""
    except Refusal as refusal:
        raise OSError(refusal.errno, os.strerror(refusal.errno)) from refusal
    except VanishedError as error:
        raise ProcessLookupError(3, "the call no longer waits") from error
    except ValueError as error:
        raise OSError(EINVAL, str(error)) from error
