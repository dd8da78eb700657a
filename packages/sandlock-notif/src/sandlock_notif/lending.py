"""The listener, lent to the thread that runs a caller's function, which then serves on by itself.

    loop ──► first call of a plain function ──► thread: function ──► answer, next call ──► function ──► …

A function of the caller's may take its time, so it runs in a thread. But a way through the loop, the thread and the
loop again for each call costs more than the function, and in a host that computes each change of threads waits for the
interpreter. So the thread takes the next call itself, as long as it is one for such a function and comes soon.

One thread at a time takes calls: the loop does not look at the listener while it is lent. What is no plain function's
is handed back with the listener. A function that holds the thread up for a moment is taken to be a slow one: the loop
takes the listener back, waits for that function as for any other, and lends nothing for a while.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from sandlock_notif.action import CONTINUE, Errno, Value
from sandlock_notif.errors import contained
from sandlock_notif.listener import CONTINUE_FLAG
from sandlock_notif.request import Request
from sandlock_notif.runner import Late, Runner
from sandlock_sys.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from sandlock_notif.dispatch import Dispatch, Handle
    from sandlock_notif.listener import Listener

__all__ = ["Lending", "Lent"]

_WAIT_NS = 10_000_000  # for the next call; the thread has nothing else to do, and closing waits as long
_LOOK_S = 0.01  # a function that takes longer does not keep the listener
_SLOW_S = 0.5  # how long nothing is lent then
_EVER = 1 << 31  # requests, and nanoseconds, of one step: whoever is slow is noticed by the loop
_GONE, _UNASKED = (
    object(),
    object(),
)  # outcomes: the loop has the listener and waits for this function; it was not asked


class Lent(ABC):
    """A caller's plain function, as it is asked in a thread.

    Attributes:
        timeout_s: seconds until it counts as failed.

    """

    timeout_s: float

    @abstractmethod
    def ask(self, request: Request) -> object:
        """Return what the function returns, whenever it does; whatever it raises is its answer too."""

    @abstractmethod
    def conclude(self, request: Request, given: object) -> object:
        """Return the outcome, as a handler would, of what was returned or (an `Exception`) raised. Never raises."""

    @abstractmethod
    def dispose(self, given: object) -> None:
        """Free what was returned too late."""


class _Job:
    """One call that a function is asked about; awaited, or closed, once its loop waits for it."""

    __slots__ = ("future", "given", "late", "lent", "loop", "request")

    def __init__(self, request: Request, lent: Lent, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.lent = lent
        self.loop = loop
        self.future: asyncio.Future[None] | None = None  # of the loop that waits, once it does
        self.late: Late | None = None

    def __await__(self) -> Generator[Any, None, object]:
        return self._rest().__await__()

    def close(self) -> None:
        """Have what the function returns disposed of: nobody will wait for it."""
        assert self.late is not None  # noqa: S101  # made by whoever took the listener back
        self.late.give_up()

    async def _rest(self) -> object:
        """Wait for the function, which has had a moment already; return the outcome."""
        assert self.future is not None  # noqa: S101  # made by whoever took the listener back
        assert self.late is not None  # noqa: S101
        given: object
        try:
            async with asyncio.timeout(self.lent.timeout_s):
                await self.future
            given = self.late.take()
        except asyncio.CancelledError:
            self.late.give_up()
            raise
        except TimeoutError as error:
            self.late.give_up()
            given = error
        outcome = self.lent.conclude(self.request, given)
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    def tell(self, given: object) -> None:
        """Give the waiting loop what the function returned or raised."""
        assert self.future is not None  # noqa: S101  # as above
        assert self.late is not None  # noqa: S101
        self.late.offer(given)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(_wake, self.future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Lending:
    """Lends one supervisor's listener; all methods are for the loop's thread.

    Arguments:
        listener, dispatch: of the supervisor.
        tell: reports a denial; called in the thread that has the listener.
        resume: looks at the listener again, and goes on with a request that was asked about by so many handlers (-1: by
            none) with this outcome, if one was handed back.
        wait: goes on with a request when this has its outcome, or closes it.
        broken: told that the kernel refused.

    """

    def __init__(
        self,
        listener: Listener,
        dispatch: Dispatch,
        *,
        tell: Callable[[Request, Errno], None],
        resume: Callable[[Request | None, int, object], None],
        wait: Callable[[Request, Awaitable[object]], None],
        broken: Callable[[int], None],
    ) -> None:
        self._listener = listener
        self._dispatch = dispatch
        self._tell = tell
        self._resume = resume
        self._wait = wait
        self._broken = broken
        self._handlers: dict[int, tuple[Handle, ...]] = {
            number: (self._asker(lent),) for number, lent in dispatch.lent.items()
        }
        self._turn = self._new_turn()
        self._before = 0  # calls taken in former turns
        self._asked_before = dict.fromkeys(self._handlers, 0)
        self._runner = Runner()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look: asyncio.TimerHandle | None = None
        self._jobs: list[_Job] = []  # the call that is being asked about; whoever takes it out answers it
        self._seen: _Job | None = None
        self._out = self._closing = False
        self._home = asyncio.Event()
        self._not_before_s = 0.0

    @property
    def served(self) -> int:
        """Calls that were taken by threads."""
        return self._before + self._turn.served

    def asked(self, number: int) -> int:
        """How often a function was asked about this call, in a thread that took it."""
        return self._asked_before.get(number, 0) + self._turn.asked(number)

    def lend(self, request: Request) -> bool:
        """Let a thread answer a request of `dispatch.lent` and those that come; False where it cannot be now."""
        loop = self._loop = asyncio.get_running_loop()
        if self._closing or self._out or not self._runner.free or loop.time() < self._not_before_s:
            return False
        try:
            self._runner.start(lambda: self._serve(request, loop))
        except RuntimeError:  # no further thread can be had: it is served as it would be without
            return False
        self._out, self._seen = True, None
        self._home.clear()
        self._look = loop.call_later(_LOOK_S, self._look_at_it)
        return True

    async def close(self) -> None:
        """Take the listener back."""
        self._closing = True
        if self._out and not self._take_back():
            await self._home.wait()  # the thread notices with the next call, or when it has waited for one
        self._runner.close()

    # In the loop's thread

    def _look_at_it(self) -> None:
        """Look whether a function holds the thread up."""
        self._look = None
        if not self._out or self._loop is None:
            return
        seen, self._seen = self._seen, next(iter(self._jobs), None)
        if self._seen is None or self._seen is not seen or not self._take_back():
            self._look = self._loop.call_later(_LOOK_S, self._look_at_it)
            return
        self._not_before_s = self._loop.time() + _SLOW_S

    def _take_back(self) -> bool:
        """Take the call that is being asked about from its thread, and with it the listener."""
        job = next(iter(self._jobs), None)
        if job is None:
            return False
        job.future, job.late = job.loop.create_future(), Late(job.lent.dispose)
        try:
            self._jobs.remove(job)
        except ValueError:  # the thread has done so
            return False
        self._renew()
        self._ended()
        self._wait(job.request, job)
        self._resume(None, 0, None)
        return True

    def _new_turn(self) -> Turn:
        turn = Turn(self._listener.fileno(), self._dispatch.arch.audit_arch, Request, CONTINUE, Value, ())
        turn.begin(_EVER, _EVER << 20)
        return turn

    def _renew(self) -> None:
        """Make another turn: a thread that is held up is within the present one for as long as its function takes.

        It takes nothing more in there, so what was counted stays.
        """
        former, self._turn = self._turn, self._new_turn()
        self._before += former.served
        for number in self._asked_before:
            self._asked_before[number] += former.asked(number)

    def _ended(self) -> None:
        self._out, self._seen = False, None
        self._home.set()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _handed_back(self, found: tuple[Request, int, object] | int | None) -> None:
        self._ended()
        if isinstance(found, int):
            self._broken(found)
        elif found is None:
            self._resume(None, 0, None)
        else:
            self._resume(*found)

    # In the thread that has the listener

    def _asker(self, lent: Lent) -> Handle:
        def ask(request: Request) -> object:
            if self._closing or self._loop is None:
                return _UNASKED
            job = _Job(request, lent, self._loop)
            self._jobs.append(job)
            try:
                given = lent.ask(request)
            except BaseException as error:  # noqa: BLE001  # whatever it is, it is the function's answer
                given = contained(error)
            try:
                self._jobs.remove(job)
            except ValueError:  # the loop waits for this one
                job.tell(given)
                return _GONE
            return lent.conclude(request, given)

        return ask  # type: ignore[return-value]  # its two marks never leave this thread

    def _serve(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        """Answer this request and those that come, until one is the loop's."""
        found: tuple[Request, int, object] | int | None = None
        try:
            found = request, 1, self._handlers[request.nr][0](request)
            while isinstance(found, tuple) and found[1] == 1:
                request, _, outcome = found
                if outcome is _GONE:
                    return
                if outcome is _UNASKED:
                    found = request, -1, None
                    break
                words = self._words(request, outcome)
                if words is None:
                    break
                found = self._turn.serve(self._handlers, self._listener, _WAIT_NS, _WAIT_NS, request.id, *words)
        except BaseException as error:  # noqa: BLE001  # no memory, most likely: the listener is given back all the same
            found = request, 1, contained(error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._handed_back, found)

    def _words(self, request: Request, outcome: object) -> tuple[int, int, int] | None:
        """Return value, errno and flags of the answer; None where the loop has to give it."""
        if outcome is None or outcome is CONTINUE:  # nobody else is to be asked
            return 0, 0, CONTINUE_FLAG
        if type(outcome) is Value:
            return outcome.value, 0, 0
        if type(outcome) is Errno:
            self._tell(request, outcome)
            return 0, outcome.number, 0
        return None
