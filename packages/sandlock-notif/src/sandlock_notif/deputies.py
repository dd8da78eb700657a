"""Deputies on the loop: system calls inside the sandbox's Landlock domain, awaited.

A call that blocks in the kernel (a dead file server, a lease) holds its deputy up. Then a further one takes over, up to
a bound, so that the loop and the other processes of the sandbox never wait for one file.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from errno import ECANCELED, ENOENT
from functools import partial
from struct import pack
from typing import TYPE_CHECKING

from sandlock_arch import native
from sandlock_notif.daemon_executor import in_thread
from sandlock_notif.errors import NotifError
from sandlock_sys.deputy import SLOTS, Answer, Completion, Deputy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_sys.deputy import Ticket

__all__ = ["BUSY_S", "Deputies"]

BUSY_S = 0.02
"""A deputy that is not back after so many seconds is taken for blocked."""
_CROWDED = 16  # completions that are worth a look before the loop turns
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h, 2.6.26
_CLOSING = Completion(-ECANCELED, 0, ())
_LIMIT = 8  # blocked deputies per sandbox; each is a thread with a small stack


class _Worker:
    """One deputy and what it was given."""

    def __init__(self, deputy: Deputy) -> None:
        self.deputy = deputy
        self.waiting: dict[Ticket, Callable[[Completion], None]] = {}


class Deputies:
    """The deputies of one sandbox. Made and used in the loop's thread.

    Arguments:
        loop: that collects what is done.
        listener: the listener's fd, for calls that answer a notification by themselves; -1 for none.
        confine: called with each new deputy before its first call, to put it into the sandbox's domain; a deputy that
            cannot be confined is not used.

    Attributes:
        closed: it makes no further call.
        last: the deputy that was given the last call, or was `ready`; until this is closed.
        unanswered: given the notification that a deputy could not answer by itself, and the errno of that.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: int, confine: Callable[[Deputy], None]) -> None:
        self._loop = loop
        self._listener = listener
        self._confine = confine
        self._workers: list[_Worker] = []
        self.closed = False
        self.last: Deputy | None = None
        self.unanswered: Callable[[int, int], None] | None = None

    @property
    def own_folder(self) -> bool:
        """Whether each deputy has a working directory and a umask of its own; False where none runs yet."""
        return bool(self._workers) and all(worker.deputy.own_folder for worker in self._workers)

    async def call(
        self,
        number: int,
        *arguments: int | bytes | bytearray,
        answer: Answer = Answer.COMPLETE,
        notification: int = 0,
        fd_flags: int = 0,
    ) -> Completion:
        """Make a system call in the domain and return what became of it; see `Deputy.submit`.

        Raises:
            NotifError: all deputies are blocked, or the sandbox is being closed.

        """
        future: asyncio.Future[Completion] = self._loop.create_future()

        def done(completion: Completion) -> None:
            if future.done():
                return
            if completion is _CLOSING:
                future.set_exception(NotifError("the sandbox is being closed"))
            else:
                future.set_result(completion)

        self.post(number, *arguments, answer=answer, notification=notification, fd_flags=fd_flags, done=done)
        # Cancelled while the deputy works: the call is made all the same, and its result is dropped.
        return await future

    def post(  # noqa: D417  # the others are those of `Deputy.submit`
        self,
        number: int,
        *arguments: int | bytes | bytearray,
        done: Callable[[Completion], None],
        answer: Answer = Answer.COMPLETE,
        notification: int = 0,
        fd_flags: int = 0,
        first: Sequence[tuple[int | bytes, ...]] = (),
    ) -> None:
        """Make a system call in the domain, as `call`, and tell `done` in the loop; nobody waits, so no task is needed.

        Arguments:
            number: as for `Deputy.submit`, like `arguments`, `answer`, `notification` and `fd_flags`.
            done: given what became of it, once, in the loop's thread; ECANCELED when the sandbox closes first.
            first: calls to make before it by the same deputy, each a number and its arguments (umask, say), whose
                results nobody wants.

        Raises:
            NotifError: all deputies are blocked, or the sandbox is being closed.

        """
        worker = self._choose()
        self.last = worker.deputy
        for call, *values in first:
            assert isinstance(call, int)  # noqa: S101  # the number
            worker.waiting[worker.deputy.submit(call, *values)] = _nobody
        ticket = worker.deputy.submit(
            number, *arguments, answer=answer, notification=notification, fd_flags=fd_flags
        )  # fmt: skip
        worker.waiting[ticket] = done if answer is Answer.COMPLETE else partial(self._answered, notification, done)

    def ready(self) -> Deputy:
        """Return a deputy that is not blocked, started if need be, for a call that it is given by somebody else.

        Raises:
            NotifError: as `post`.

        """
        self.last = self._choose().deputy
        return self.last

    def _answered(self, notification: int, done: Callable[[Completion], None], completion: Completion) -> None:
        # Where the fd could not be placed the deputy has said so itself, as a rule: a second answer does no harm.
        if completion.answered < 0 and completion.answered != -ENOENT and self.unanswered is not None:
            self.unanswered(notification, -completion.answered)
        done(completion)

    def _choose(self) -> _Worker:
        if self.closed:
            raise NotifError("the sandbox is being closed")
        for worker in self._workers:
            if len(worker.waiting) >= _CROWDED:
                self._collect(worker)
        fit = [w for w in self._workers if w.deputy.busy_s < BUSY_S]
        best = min(fit, key=lambda w: len(w.waiting), default=None)
        if best is not None and len(best.waiting) < SLOTS // 2:
            return best
        if len(self._workers) >= _LIMIT:
            # Blocked, or only slow on a busy machine: waiting behind one of them is better than failing.
            best = min(self._workers, key=lambda w: len(w.waiting))
            if len(best.waiting) >= SLOTS // 2:
                raise NotifError(f"all {_LIMIT} deputies are blocked")
            return best
        return self._start()

    def _start(self) -> _Worker:
        deputy = Deputy()
        deputy.start()
        try:
            self._confine(deputy)
            _give_up_capabilities(deputy)
            deputy.listener = self._listener
        except BaseException:
            deputy.close()
            raise
        worker = _Worker(deputy)
        self._workers.append(worker)
        self._loop.add_reader(deputy.fileno(), self._collect, worker)
        return worker

    def adopt(self, deputy: Deputy) -> None:
        """Take over a deputy that runs and is confined already, the one that launched the child say."""
        _give_up_capabilities(deputy)
        deputy.listener = self._listener
        worker = _Worker(deputy)
        self._workers.append(worker)
        self._loop.add_reader(deputy.fileno(), self._collect, worker)

    def _collect(self, worker: _Worker) -> None:
        for ticket, completion in worker.deputy.collect():
            done = worker.waiting.pop(ticket, None)
            if done is not None:
                done(completion)

    async def close(self) -> None:
        """End all deputies, after the calls that they are in; what waits gets NotifError. Twice is fine."""
        self.closed = True
        workers, self._workers = self._workers, []
        for worker in workers:
            with suppress(ValueError):
                self._loop.remove_reader(worker.deputy.fileno())
        if not workers:
            return
        # A blocked deputy is joined in a thread of its own, or a dead file server would hold the loop.
        await asyncio.gather(*[in_thread(worker.deputy.close) for worker in workers])
        for worker in workers:  # what they borrowed (fds) may be freed only now
            for done in worker.waiting.values():
                done(_CLOSING)


def _give_up_capabilities(deputy: Deputy) -> None:
    """Leave a deputy none of root's capabilities: the sandbox's processes have none either."""
    header, none = pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    done = deputy.wait(deputy.submit(native().syscalls["capset"], header, none))
    done.check("capset")


def _nobody(completion: Completion) -> None:
    _ = completion
