"""The deputy of one sandbox: a C thread that executes system calls inside the sandbox's Landlock domain.

    with Deputy() as deputy:
        deputy.restrict_self(ruleset)                           # that thread only; the process stays free
        child = deputy.spawn(request)                           # cloned by that thread, so nested in its domain
        ticket = deputy.submit(OPENAT, -100, b"/etc/hosts", O_RDONLY | O_CLOEXEC)
        fd = deputy.wait(ticket).result

The caller decides, the deputy acts: what it opens, creates or renames is checked by the kernel against the same rules
as the child's own calls. A submission can also answer the notification that it was made for, with its result or with
the fd that it opened (`Answer`), without another step of the caller's.

Every method may be called by any thread. Calls are made in the order of submission; one that blocks in the kernel holds
up the ones behind it, and `close`.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from errno import EAGAIN, ETIMEDOUT
from typing import TYPE_CHECKING, Self

from sandlock_sys._buffers import address
from sandlock_sys._call import check, restarting
from sandlock_sys._ffi import ffi, lib
from sandlock_sys.errors import SyscallError
from sandlock_sys.spawn import spawn

if TYPE_CHECKING:
    from types import TracebackType

    from sandlock_sys._ffi import CData
    from sandlock_sys.spawn import Spawned, SpawnRequest

__all__ = ["BUFFER_BYTES", "SLOTS", "Answer", "Completion", "Deputy", "RingFullError", "Ticket"]

SLOTS = 64  # SL_DEPUTY_SLOTS in _csrc/deputy.h: submissions that are not collected yet
BUFFER_BYTES = 8192  # SL_DEPUTY_BYTES: for all buffers of one submission

_SPAWN, _RESTRICT = 0x7FFFFFFF, 0x7FFFFFFE  # SL_DEPUTY_SPAWN, SL_DEPUTY_RESTRICT
_ALIGNMENT = 16  # more than any structure of the kernel's wants
_WORD = (1 << 64) - 1
_LAST_NUMBER = 0xFFFF
_LEAVING_S = 0.001  # between two looks whether all who waited have left


class Answer(IntEnum):
    """What is done with the result of a call, besides telling the caller."""

    COMPLETE = 0
    """Nothing."""
    VALUE = 1
    """It answers the notification: the value, or the errno."""
    FD = 2
    """The fd that the call returned is put into the waiting task, answers the notification with its number there, and
    is closed here. When the task cannot take it (EMFILE), the errno answers."""


class RingFullError(SyscallError):
    """All slots hold submissions that nobody collected; wait for one first."""

    def __init__(self) -> None:
        super().__init__("deputy", EAGAIN, f"all {SLOTS} slots are taken")

    def __reduce__(self) -> tuple[type[RingFullError], tuple[()]]:  # type: ignore[override]  # fewer fields than the base
        return type(self), ()


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One submission; it stands for its result until that was collected, once."""

    index: int
    buffers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of a submission.

    Attributes:
        result: the kernel's value, or a negated errno (ECANCELED: the deputy was closed before it began). With
            Answer.FD it is the number of an fd that is closed again.
        answered: of the answer: 0, or the fd's number in the task, or a negated errno (ENOENT: the task no longer
            waits). 0 where nothing was to be answered.
        buffers: what is in the buffer arguments now, in their order, each as long as it was given.

    """

    result: int
    answered: int
    buffers: tuple[bytes, ...]

    def check(self, call: str) -> int:
        """Return the result, or raise it as the SyscallError of `call`."""
        return check(call, self.result)


class Deputy:
    """The ring and its thread, from `start` (or the `with` block) to `close`.

    Attributes:
        thread_id: of the deputy, in this process.
        own_folder: the deputy has a working directory and a umask of its own, so that submitting chdir or umask does
            not change this process. False only where an outer filter refuses unshare(2).

    """

    def __init__(self) -> None:
        self._ring: CData | None = None
        # A plain lock: a signal handler that raises inside Condition.__enter__ would leave that one locked for ever.
        self._lock = threading.RLock()
        self._free: list[int] = []
        self._open: set[Ticket] = set()  # not collected
        self._inside: set[Ticket] = set()  # somebody waits for it, and so looks at the ring
        self.thread_id = 0
        self.own_folder = False

    def start(self) -> None:
        """Start the thread, with every signal blocked and free of any domain but the calling thread's.

        Raises:
            SyscallError: no memory, fd or thread is to be had.
            ValueError: it runs already.

        """
        if self._ring is not None:
            raise ValueError("the deputy runs already")
        started = ffi.new("struct sl_deputy **")
        check("pthread_create", lib.sl_deputy_start(started), "the deputy")
        self._ring = started[0]
        self._free = list(range(SLOTS))
        self.thread_id = self._ring.thread_id
        self.own_folder = bool(self._ring.own_folder)

    def close(self) -> None:
        """End the thread, after the call that it is in; submissions that it has not begun complete with ECANCELED.

        Nothing that was opened and not collected is closed here. Closing twice is fine.
        """
        with self._lock:
            ring, self._ring = self._ring, None
        if ring is None:
            return
        lib.sl_deputy_stop(ring)
        # Safety: whoever is inside `wait` told so while the ring was open; they all see their slot done now and leave.
        while self._inside:
            time.sleep(_LEAVING_S)
        self._open.clear()
        lib.sl_deputy_free(ring)

    def __enter__(self) -> Self:
        """Start, and return the deputy itself."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def fileno(self) -> int:
        """An eventfd, borrowed: readable when something has completed since the last `collect`."""
        with self._lock:
            completions: int = self._running().completions
        return completions

    @property
    def busy_s(self) -> float:
        """For how many seconds it has been in one call by now; 0 when it has nothing to do."""
        with self._lock:
            busy_ns: int = lib.sl_deputy_busy(self._running())
        return busy_ns / 1e9

    @property
    def ring(self) -> CData:
        """The memory that it shares with C, for a `Shortcut`, which may use it until `close` is called."""
        with self._lock:
            return self._running()

    @property
    def listener(self) -> int:
        """The notification listener's fd that answers go to, borrowed; -1 for none. Set it before the first answer."""
        with self._lock:
            listener: int = self._running().listener
        return listener

    @listener.setter
    def listener(self, fd: int) -> None:
        with self._lock:
            self._running().listener = fd

    def submit(
        self,
        number: int,
        *arguments: int | bytes | bytearray,
        answer: Answer = Answer.COMPLETE,
        notification: int = 0,
        fd_flags: int = 0,
    ) -> Ticket:
        """Hand a system call to the deputy.

        Arguments:
            number: of the call, on this architecture.
            arguments: up to six; bytes and bytearrays are copied into the submission, followed by a NUL byte, and their
                address is passed. What the kernel wrote there is in `Completion.buffers`.
            answer: what else is done with the result.
            notification: id of the request, with Answer.VALUE and Answer.FD.
            fd_flags: O_CLOEXEC or 0 for the fd in the other task, with Answer.FD.

        Raises:
            RingFullError: SLOTS submissions are not collected yet.
            ValueError: the deputy does not run; too many or too large arguments; a number that no call has; an answer
                without a listener.

        Safety: the call runs in this process's memory. An integer is passed as it is, so it may never be an address
        that came from the child: it would be read, or written, here. Pointers are bytes or bytearrays.

        """
        if not 0 <= number <= _LAST_NUMBER:
            raise ValueError(f"{number} is no system call number")
        if answer is not Answer.COMPLETE and self.listener < 0:
            raise ValueError("there is no listener to answer to: set `listener` first")
        with self._lock:
            ring, ticket = self._prepare(number, arguments, answer, notification, fd_flags)
            lib.sl_deputy_submit(ring, ticket.index)
        return ticket

    def _prepare(
        self,
        number: int,
        arguments: tuple[int | bytes | bytearray, ...],
        answer: Answer = Answer.COMPLETE,
        notification: int = 0,
        fd_flags: int = 0,
    ) -> tuple[CData, Ticket]:
        """Fill a slot; under the lock."""
        words, content, buffers, mask = _lay_out(arguments)
        ring = self._running()
        if not self._free:
            raise RingFullError
        index = self._free.pop()
        slot = ring.slots[index]
        # Safety: the slot was free, so the deputy does not look at it before it is submitted, and the pointers that
        # it makes of the offsets lead into the ring, which lives until `close` has joined the thread.
        slot.arguments = words
        ffi.buffer(slot.buffer, BUFFER_BYTES)[: len(content)] = content
        slot.number, slot.buffer_mask = number, mask
        slot.answer, slot.notification, slot.fd_flags = answer, notification, fd_flags
        slot.result = slot.answered = slot.state = 0
        ticket = Ticket(index, buffers)
        self._open.add(ticket)
        return ring, ticket

    def wait(self, ticket: Ticket, timeout_s: float | None = None) -> Completion:
        """Wait for a submission and collect it.

        Raises:
            TimeoutError: `timeout_s` seconds passed; the ticket stays good.
            ValueError: it was collected already, or the deputy was closed.

        """
        deadline_ns = -1 if timeout_s is None else time.monotonic_ns() + max(int(timeout_s * 1e9), 0)
        with self._lock:
            ring = self._running()
            if ticket not in self._open or ticket in self._inside:
                raise ValueError("the submission was collected already, or somebody else waits for it")
            self._inside.add(ticket)
        try:
            if restarting(lib.sl_deputy_wait, ring, ticket.index, deadline_ns) == -ETIMEDOUT:
                raise TimeoutError(f"the deputy is not done after {timeout_s} s")
            return self._take(ring, ticket)
        finally:
            self._inside.discard(ticket)

    def collect(self) -> list[tuple[Ticket, Completion]]:
        """Return what has completed and nobody waits for, each once; empties the eventfd first."""
        with self._lock:
            ring = self._running()
            with suppress(BlockingIOError):  # nothing since the last time
                os.eventfd_read(ring.completions)
            done = [
                ticket
                for ticket in self._open - self._inside
                if restarting(lib.sl_deputy_wait, ring, ticket.index, 0) == 0
            ]
            return [(ticket, self._take(ring, ticket)) for ticket in done]

    def _take(self, ring: CData, ticket: Ticket) -> Completion:
        slot = ring.slots[ticket.index]
        memory = ffi.buffer(slot.buffer, BUFFER_BYTES)
        buffers = tuple(bytes(memory[at : at + size]) for at, size in ticket.buffers)
        done = Completion(slot.result, slot.answered, buffers)
        with self._lock:
            self._open.discard(ticket)
            self._free.append(ticket.index)
        return done

    def restrict_self(self, ruleset: int, flags: int = 0) -> None:
        """Set no_new_privs and put the deputy, and what it spawns from now on, into a new Landlock domain of `ruleset`.

        Raises:
            SyscallError: as `landlock.restrict_self`.

        """
        with self._lock:
            ring, ticket = self._prepare(_RESTRICT, (ruleset, flags))
            lib.sl_deputy_submit(ring, ticket.index)
        done = self.wait(ticket)
        check("landlock_restrict_self", done.result, f"fd {ruleset}, flags {flags:#x}, in the deputy")

    def spawn(self, request: SpawnRequest) -> Spawned:
        """Launch a child as `sandlock_sys.spawn.spawn` does, cloned by the deputy, so that its domain is nested there.

        Raises:
            SpawnError, ValueError: as that.

        """
        return spawn(request, self._launch)

    def _launch(self, memory: CData) -> int:
        ticket: Ticket | None = None
        try:
            with self._lock:
                ring, ticket = self._prepare(_SPAWN, (address(memory),))
                self._inside.add(ticket)
            # Safety: the deputy works in `memory`, which the caller frees. Submission and wait are one call into C, so
            # that nothing that a signal handler raises can lead out of here in between.
            lib.sl_deputy_call(ring, ticket.index)
            return self._take(ring, ticket).result
        finally:
            if ticket is not None:
                self._inside.discard(ticket)

    def _running(self) -> CData:
        ring = self._ring
        if ring is None:
            raise ValueError("the deputy does not run")
        return ring


def _lay_out(
    arguments: tuple[int | bytes | bytearray, ...],
) -> tuple[list[int], bytearray, tuple[tuple[int, int], ...], int]:
    """Return six words, the slot's buffer, (offset, size) of each argument in it, and a mask of the words in it."""
    if len(arguments) > 6:
        raise ValueError(f"a system call has at most 6 arguments, not {len(arguments)}")
    words, content, buffers, mask = [0] * 6, bytearray(), [], 0
    for position, argument in enumerate(arguments):
        if isinstance(argument, int):
            words[position] = argument & _WORD
            continue
        words[position] = len(content)
        mask |= 1 << position
        buffers.append((len(content), len(argument)))
        content += argument + b"\0"
        content += bytes(-len(content) % _ALIGNMENT)
    if len(content) > BUFFER_BYTES:
        raise ValueError(f"the buffers take {len(content)} bytes, and a submission has {BUFFER_BYTES}")
    return words, content, tuple(buffers), mask
