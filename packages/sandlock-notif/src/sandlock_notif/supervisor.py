"""The supervisor of one sandbox: takes notifications, asks handlers, gives answers.

    listener ──► Request ──► Dispatch[nr] ──► handlers, first answer wins ──► Action ──► listener

One supervisor runs in one event loop; nothing in it blocks that loop. Every failure denies: a handler that raises, an
answer that the kernel refuses, a number that nobody handles.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from contextlib import suppress
from errno import ENOSYS, EPERM
from typing import TYPE_CHECKING

from sandlock_notif.action import CONTINUE, Action, Answered, Delegate, Errno, InjectFd, Value
from sandlock_notif.answering import Answerer
from sandlock_notif.errors import Refusal, VanishedError
from sandlock_notif.events import Event, Sink, ignore
from sandlock_notif.lending import Lending
from sandlock_notif.processes import Processes
from sandlock_notif.request import Request
from sandlock_notif.shortcuts import judge, shortcut_of
from sandlock_notif.tasks import TaskPool
from sandlock_sys.errors import SyscallError
from sandlock_sys.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sandlock_notif.deputies import Deputies
    from sandlock_notif.dispatch import Dispatch, Handle
    from sandlock_notif.listener import Listener
    from sandlock_sys.shortcut import Shortcut

__all__ = ["MAX_TASKS", "Supervisor"]

MAX_TASKS = 256
"""Calls of one sandbox that may wait for something (a connection, a callback, a deputy) at once."""
_PER_PROCESS = 64  # of these, for one process
_BURST = 64  # requests answered before the loop serves its other sandboxes
_BURST_NS = 5_000_000  # and the time after which one more is answered: some take long, as the program has chosen
# The kernel works on these for longer than we would wait for the next call, and needs the CPU for it: waiting made a
# loop of fork and exec 5 % slower.
_LONG = ("fork", "vfork", "clone", "execve", "execveat")
_NEXT_NS = 30_000  # waiting this long for the child's next call is cheaper than a turn of the loop


class Supervisor:
    """Serves one listener.

    Arguments:
        listener: which the supervisor owns from now on.
        dispatch: the handlers, compiled.
        processes: the index of the sandbox's processes; made when None.
        deputies: who makes delegated calls; without them `Delegate` denies.
        sink: told what is denied and what fails.
        patient: wait a moment for the next call before the loop turns: faster for one sandbox, and others in the same
            loop wait as long.

    """

    def __init__(
        self,
        listener: Listener,
        dispatch: Dispatch,
        *,
        processes: Processes | None = None,
        deputies: Deputies | None = None,
        sink: Sink = ignore,
        patient: bool = True,
    ) -> None:
        self.listener = listener
        self.dispatch = dispatch
        self.processes = processes if processes is not None else Processes()
        self.deputies = deputies
        self._sink = sink
        self._wait_ns = _NEXT_NS if patient else 0
        numbers = dispatch.arch.syscalls
        hurried = tuple([numbers[name] for name in _LONG if name in numbers])
        self._turn = Turn(listener.fileno(), dispatch.arch.audit_arch, Request, CONTINUE, Value, hurried)
        self._tasks = TaskPool(MAX_TASKS, _PER_PROCESS, self._task_failed)
        self._answerer = Answerer(listener, self.processes, deputies, self._tell, self._delegate, self._broken)
        self._beside = dict.fromkeys(dispatch.handlers, 0)  # asked about, of what a thread handed back
        self._lending = self._lender() if dispatch.lent else None
        self._shortcut = shortcut_of(listener, dispatch, self._wait_ns)
        if self._shortcut is not None:
            self._turn.use(self._shortcut.address)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Future[None] | None = None

    @property
    def served(self) -> int:
        """Notifications answered so far."""
        lent = 0 if self._lending is None else self._lending.served
        return self._turn.served + self.shortly + lent

    @property
    def shortly(self) -> int:
        """Of these, the ones that were served without the interpreter."""
        return 0 if self._shortcut is None else self._shortcut.served

    def answered(self) -> dict[str, int]:
        """Return how often each call was asked about so far, by its name."""
        shortly = {} if self._shortcut is None else self._shortcut.served_by_number()
        lending, asked = self._lending, self._turn.asked
        return {
            name: asked(number)
            + shortly.get(number, 0)
            + self._beside[number]
            + (0 if lending is None else lending.asked(number))
            for number, name in self.dispatch.names.items()
        }

    async def serve(self) -> None:
        """Answer until no task has the filter any more, or until cancelled; then close.

        Raises:
            SyscallError: the listener itself failed. Everything that waited has been denied.

        """
        done = self.start()
        try:
            await done
        finally:
            await self.close()

    def start(self) -> asyncio.Future[None]:
        """Begin to answer in the running loop; `close` ends it. The future is done when no task has the filter."""
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._loop.add_reader(self.listener.fileno(), self._ready)
        return self._done

    async def close(self) -> None:
        """Stop, deny what waits, and free everything; closing twice is fine."""
        self._stop(None)
        if self._lending is not None:
            await self._lending.close()
        self._turn.use(0)
        await self._tasks.close()
        self._answerer.close()
        if self.deputies is not None:
            await self.deputies.close()
        self.listener.close()
        self.processes.close()

    def report(self, event: Event) -> None:
        """Tell the sink; one that raises, sys.exit() included, changes no verdict."""
        with suppress(Exception, SystemExit, asyncio.CancelledError):
            self._sink(event)

    def _stop(self, error: OSError | None) -> None:
        if self._loop is not None and self.listener.fileno() >= 0:
            self._loop.remove_reader(self.listener.fileno())
        if self._done is not None and not self._done.done():
            if error is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(error)

    def _ready(self) -> None:
        """Serve a bounded number of requests; called by the loop when there is one."""
        turn, shortcut = self._turn, self._shortcut
        until_ns = turn.begin(_BURST, _BURST_NS)
        if shortcut is not None:
            shortcut.allow(_BURST, until_ns)
            if shortcut.stale:
                self._judge(shortcut)
        try:
            found = turn.serve(self.dispatch.handlers, self.listener, 0, self._wait_ns)
            while found is not None:
                if isinstance(found, int):
                    self._refused(found)
                    return
                found = self._serve(*found)
        except OSError as error:
            self._broken(error)
        if turn.hung_up:
            self._stop(None)

    def _judge(self, shortcut: Shortcut) -> None:
        """Have it told what to judge by; where that fails, every call is asked about until it is told."""
        try:
            judge(shortcut, self.dispatch)
        except Exception as error:  # noqa: BLE001  # a bug, of whatever kind, costs time and no more
            self.report(Event("fault", reason=f"nothing is served without being asked about: {error!r}"))

    def _refused(self, result: int) -> None:
        self._broken(SyscallError("ioctl SECCOMP_IOCTL_NOTIF", -result, f"fd {self.listener.fileno()}"))

    def _broken(self, error: OSError) -> None:
        """No call may wait for ever for a listener that does not work: it is closed, and `serve` raises."""
        self.report(Event("fault", reason=f"the listener failed: {error}"))
        self._stop(error)

    def _serve(self, request: Request, asked: int, outcome: object) -> tuple[Request, int, object] | int | None:
        """Answer a request that `asked` handlers have judged, and go on with the next ones."""
        handlers, turn = self.dispatch.handlers, self._turn
        if asked < 0:
            action: Action | None = Errno(ENOSYS, "a call that nobody handles")
        elif self._lend(request, outcome):
            return None
        else:
            action = self._judged(request, outcome, handlers[request.nr], asked)
        if type(action) is Errno:  # answered in the step that takes the next request
            if action.reason:
                self._tell("denied", request, action.number, action.reason)
            return turn.serve(handlers, self.listener, self._wait_ns, self._wait_ns, request.id, 0, action.number, 0)
        if action is not None:
            self._answerer.perform(request, action)
        # Where a deputy answers, the child's next call is as near as after an answer of ours.
        return turn.serve(handlers, self.listener, self._wait_ns if type(action) is Answered else 0, self._wait_ns)

    def _lender(self) -> Lending:
        def tell(request: Request, denial: Errno) -> None:
            if denial.reason:
                self._tell("denied", request, denial.number, denial.reason)

        def wait(request: Request, rest: Awaitable[object]) -> None:
            self._later(request, rest, (), 0)

        return Lending(self.listener, self.dispatch, tell=tell, resume=self._resume, wait=wait, broken=self._refused)

    def _lend(self, request: Request, outcome: object) -> bool:
        """Lend the listener to the thread that answers this request; False where that is not how it is answered."""
        lending = self._lending
        if lending is None or self._loop is None or request.nr not in self.dispatch.lent:
            return False
        if not inspect.iscoroutine(outcome) or not lending.lend(request):
            return False
        outcome.close()
        self._loop.remove_reader(self.listener.fileno())
        return True

    def _resume(self, request: Request | None, asked: int, outcome: object) -> None:
        """Look at the listener again, and go on with the request that came back with it."""
        over = self._loop is None or self._done is None or self._done.done()
        if self._loop is not None and not over:
            self._loop.add_reader(self.listener.fileno(), self._ready)
        if request is None:
            return
        handlers = self.dispatch.handlers.get(request.nr, ())
        if over:
            self._answerer.deny(request)
            if isinstance(outcome, InjectFd) and outcome.owned:  # nobody gets it
                os.close(outcome.fd)
            elif inspect.iscoroutine(outcome):
                outcome.close()
            return
        if asked >= 0:
            action = self._judged(request, outcome, handlers, asked)
        elif handlers and request.arch == self.dispatch.arch.audit_arch:
            self._beside[request.nr] += 1
            action = self._ask(request, handlers, 0)
        else:
            action = Errno(ENOSYS, "a call that nobody handles")
        if action is not None:
            self._answerer.perform(request, action)

    def _ask(self, request: Request, handlers: tuple[Handle, ...], first: int) -> Action | None:
        """Let the handlers from `first` on judge; None where one of them will later."""
        for index in range(first, len(handlers)):
            try:
                outcome: object = handlers[index](request)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # a bug, of whatever kind, denies
                outcome = error
            if outcome is not None:
                return self._judged(request, outcome, handlers, index + 1)
        return CONTINUE

    def _judged(self, request: Request, outcome: object, handlers: tuple[Handle, ...], following: int) -> Action | None:
        """Return the action that an outcome is, or what it was raised for; None where that is for a task."""
        if isinstance(outcome, Action):
            return outcome
        if isinstance(outcome, BaseException):
            return self._raised(request, outcome)
        if inspect.isawaitable(outcome):
            self._later(request, outcome, handlers, following)
            return None
        return self._fault(request, TypeError(f"a handler answered {outcome!r}, which is no action"))

    def _raised(self, request: Request, error: BaseException) -> Action:
        if isinstance(error, Refusal):
            return Errno(error.errno, error.reason)
        if isinstance(error, VanishedError):
            return Errno(EPERM)
        if isinstance(error, (Exception, asyncio.CancelledError)):
            return self._fault(request, error)
        raise error  # an interrupt is for who runs the loop

    def _later(
        self, request: Request, outcome: Awaitable[object], handlers: tuple[Handle, ...], following: int
    ) -> None:
        """Make a task of the rest."""

        def drop() -> None:
            self._answerer.deny(request)
            close = getattr(outcome, "close", None)  # of a coroutine, or of what holds a resource until it is awaited
            if close is not None:
                close()

        try:
            owner = self.processes.of(request).pid
        except (VanishedError, OSError):  # this call is denied; it is no fault of the listener
            drop()
            return
        self._tasks.add(owner, lambda: self._finish(request, outcome, handlers, following), drop)

    async def _finish(
        self, request: Request, outcome: Awaitable[object], handlers: tuple[Handle, ...], following: int
    ) -> None:
        action: Action | None
        try:
            late = await outcome
            if late is None:
                action = self._ask(request, handlers, following)
            elif isinstance(late, Action):
                action = late
            else:
                action = self._fault(request, TypeError(f"a handler answered {late!r}, which is no action"))
        except asyncio.CancelledError:
            self._answerer.deny(request)
            raise
        except Refusal as refusal:
            action = Errno(refusal.errno, refusal.reason)
        except VanishedError:
            action = Errno(EPERM)
        except Exception as error:  # noqa: BLE001  # as above
            action = self._fault(request, error)
        if action is not None:
            self._answerer.perform(request, action)

    def _delegate(self, request: Request, action: Delegate) -> None:
        self._later(request, self._answerer.delegated(request, action), (), 0)

    def _task_failed(self, error: BaseException) -> None:
        self.report(Event("fault", reason=f"answering failed: {error!r}"))

    def _fault(self, request: Request, error: BaseException) -> Errno:
        self._tell("fault", request, EPERM, f"{type(error).__name__}: {error}")
        return Errno(EPERM)

    def _tell(self, kind: str, request: Request, errno: int, reason: str) -> None:
        name = self.dispatch.names.get(request.nr, str(request.nr))
        self.report(Event(kind, name, request.tid, errno, reason))
