"""Taking the socket that a call names, once, and answering later without losing it."""

from __future__ import annotations

import asyncio
from errno import EBADF, EFAULT, EINTR, EINVAL, EMFILE, ENFILE, ENOENT, ENOTSOCK, EPERM, ESRCH
from typing import TYPE_CHECKING, Final

from sandlock_notif import memory
from sandlock_notif.errors import Refusal, VanishedError
from sandlock_sys import sockets
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from sandlock_notif.action import Action
    from sandlock_notif.processes import Processes
    from sandlock_notif.request import Request
    from sandlock_sys.sockets import Socket

__all__ = [
    "InterruptedWaitError",
    "Pending",
    "Source",
    "holding",
    "look",
    "read_name",
    "take",
    "take_named",
    "wait_until_writable",
]

_ERESTARTSYS: Final = 512  # linux/errno.h: never reaches a program
_LOOK_S: Final = 0.25  # how soon one notices that the task was interrupted; it waits for nobody meanwhile


class Source:
    """Where sockets are taken from: the processes of one sandbox.

    Attributes:
        processes: the index.
        threads: takes, and keeps what the next taking needs.

    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.threads = sockets.Threads()

    def close(self) -> None:
        """Free what is kept."""
        self.threads.close()


def take(request: Request, source: Source, argument: int = 0) -> Socket:
    """Return a copy of the socket that an argument names, the caller's; nobody can put another one in its place.

    What is decided about it and what is done with it happen to the same open socket, whatever the child does to its
    fd table meanwhile (NOT-05).

    Raises:
        Refusal: EBADF, ENOTSOCK, or EPERM when it cannot be taken.
        VanishedError: the task no longer waits.

    """
    number = request.int_arg(argument)
    try:
        try:
            pinned = source.threads.take(request.tid, number)
        except SyscallError as error:
            if error.errno not in (EINVAL, ENOENT):
                raise
            # Before 6.9 a thread has no pidfd. Its process has one, and nearly always the same fd table.
            pinned = source.threads.take(source.processes.of(request).pid, number)
    except SyscallError as error:
        raise _refused(error) from error
    try:
        still = request.waits()
    except BaseException:
        pinned.close()
        raise
    if not still:  # the thread id may have been another's
        pinned.close()
        raise VanishedError
    return pinned


def take_named(
    request: Request, source: Source, name: tuple[int, int], data: tuple[int, int] = (0, 0)
) -> tuple[Socket, bytes, bytes]:
    """Return what `take` does, with the socket address and the data that the call points to, copied once.

    Arguments:
        request: the call; its first argument is the socket.
        source: of the sandbox.
        name: address and length of the socket address in the child's memory; EINVAL for a length that none has.
        data: likewise of the data.

    Raises:
        Refusal: as `take`, EINVAL, EFAULT.
        VanishedError: the task no longer waits.

    """
    if 0 <= name[1] <= sockets.ADDRESS_MAX and not request.copies:
        try:
            found = source.threads.take_with(
                request.listener.fileno(), request.id, request.tid, request.int_arg(0), name, data
            )  # fmt: skip
        except SyscallError as error:
            if error.errno not in (EINVAL, ENOENT):
                raise _refused(error) from error
        else:
            if found is None:
                raise VanishedError
            request.copies[name[0], False] = found[1]
            return found
    # Somebody, a callback say, has read the address before: it must be that copy. Or it is one of the rare cases.
    pinned = take(request, source)
    try:
        return pinned, read_name(request, *name), memory.read(request, *data) if data[1] else b""
    except BaseException:
        pinned.close()
        raise


def _refused(error: SyscallError) -> Exception:
    if error.errno in (EBADF, ENOTSOCK, EFAULT):
        return Refusal(error.errno)
    if error.errno == ESRCH:
        return VanishedError()
    if error.errno in (EMFILE, ENFILE):
        return Refusal(EPERM, "the supervisor has no file descriptor left")
    return Refusal(EPERM, f"the socket cannot be taken: {error}")


def read_name(request: Request, address: int, length: int) -> bytes:
    """Return the copy of a socket address in the child's memory; the same one, however often it is read.

    Raises:
        Refusal: EINVAL for a length that no address has, EFAULT.

    """
    if not 0 <= length <= sockets.ADDRESS_MAX:
        raise Refusal(EINVAL)
    return memory.read(request, address, length)


class Pending:
    """An answer that is awaited, and the socket that it is about, closed in every case: also when nobody awaits."""

    def __init__(self, work: Coroutine[object, object, Action], pinned: Socket) -> None:
        self._work = work
        self._pinned = pinned
        self.on_refusal: Callable[[Refusal], Action] | None = None
        """Told of a refusal that comes late, it returns the answer."""

    def __await__(self) -> Generator[object, object, Action]:
        try:
            return (yield from self._work.__await__())
        except Refusal as refusal:
            if self.on_refusal is None:
                raise
            return self.on_refusal(refusal)
        finally:
            self._pinned.close()

    def close(self) -> None:
        """Give up before it was awaited."""
        self._work.close()
        self._pinned.close()


class InterruptedWaitError(Refusal):
    """A signal has come for the task that waits: its call ends, and is made again where the handler wants that."""


def look(request: Request) -> None:
    """See whether a waiting task should wait on.

    A received notification is left for fatal signals only (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), so that nothing is
    done twice. So whoever waits long has to look for the others: handlers, job control, a debugger.

    Raises:
        VanishedError: it no longer waits.
        InterruptedWaitError: a signal is pending that it does not block. What was started goes on, as in the kernel.

    """
    if not request.waits():
        raise VanishedError
    try:
        with open(f"/proc/{request.tid}/status", "rb") as status:
            lines = dict(line.split(b":", 1) for line in status.read().splitlines() if b":" in line)
        own, shared, blocked = (int(lines[name], 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk"))
        alone = int(lines[b"Threads"]) == 1
    except (OSError, KeyError, ValueError):
        return  # the next look tells
    if (own | (shared if alone else 0)) & ~blocked:
        # Nobody else can take this signal, so the kernel sees it before the program sees this number, and turns it
        # into EINTR or a restart by SA_RESTART.
        raise InterruptedWaitError(_ERESTARTSYS)
    if shared & ~blocked:
        raise InterruptedWaitError(EINTR)


async def wait_until_writable(request: Request, fd: int, timeout_s: float | None) -> bool:
    """Wait for room or for a connection; return False when `timeout_s` has passed first. Raises as `look`."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    end = None if timeout_s is None else loop.time() + timeout_s
    loop.add_writer(fd, _wake, ready)
    try:
        while True:
            left = _LOOK_S if end is None else min(_LOOK_S, end - loop.time())
            if left > 0:
                await asyncio.wait((ready,), timeout=left)
            if ready.done():
                if not request.waits():
                    raise VanishedError
                return True
            look(request)
            if end is not None and loop.time() >= end:
                return False
    finally:
        loop.remove_writer(fd)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def holding(pinned: Socket, work: Callable[[Socket], Action | Pending]) -> Action | Pending:
    """Return what `work` answers about a socket, which is closed then, unless the answer is pending and owns it."""
    try:
        answer = work(pinned)
    except BaseException:
        pinned.close()
        raise
    if not isinstance(answer, Pending):
        pinned.close()
    return answer
