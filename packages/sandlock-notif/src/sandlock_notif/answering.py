"""Carrying out an action: the answer that the child's call returns with.

An answer that the kernel refuses becomes an errno. It never becomes the real call.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EINPROGRESS, EPERM
from typing import TYPE_CHECKING, assert_never

from sandlock_notif.action import Answered, Continue, Delegate, Errno, Hold, InjectFd, Kill, Value
from sandlock_notif.errors import NotifError, VanishedError
from sandlock_sys.deputy import Answer
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_notif.action import Action
    from sandlock_notif.deputies import Deputies
    from sandlock_notif.listener import Listener
    from sandlock_notif.processes import Processes
    from sandlock_notif.request import Request

__all__ = ["Answerer"]

_SWEEP = 64  # held requests before the dead among them are looked for


class Answerer:
    """Gives the answers of one sandbox.

    Arguments:
        listener, processes, deputies: of the sandbox.
        report: takes an event about a request: kind, request, errno, reason.
        delegate: told of a `Delegate` action; it must see to it that `delegated` runs as a task.
        broken: told that not even a refusal could be given; it must close the listener, which ends every wait.

    """

    def __init__(
        self,
        listener: Listener,
        processes: Processes,
        deputies: Deputies | None,
        report: Callable[[str, Request, int, str], None],
        delegate: Callable[[Request, Delegate], None],
        broken: Callable[[OSError], None],
    ) -> None:
        self._listener = listener
        self._processes = processes
        self._deputies = deputies
        self._report = report
        self._delegate = delegate
        self._broken = broken
        if deputies is not None:
            deputies.unanswered = self._refuse
        self._held: dict[int, Request] = {}
        self._sweep_at = _SWEEP

    def perform(self, request: Request, action: Action) -> None:
        """Answer the request with `action`, at once but for `Delegate` and `Hold`."""
        try:
            self._carry_out(request, action)
        except Exception as error:  # noqa: BLE001  # what the action brought along may raise anything
            errno = error.errno if isinstance(error, SyscallError) and error.errno else EPERM
            self.deny(request, errno)
            self._report("fault", request, errno, str(error))

    def deny(self, request: Request, errno: int = EPERM) -> None:
        """Let the call fail."""
        self._refuse(request.id, errno)

    def _refuse(self, notification: int, errno: int) -> None:
        if self._listener.fileno() < 0:  # closed: the kernel has answered ENOSYS
            return
        try:
            self._listener.answer(notification, error=errno)
        except OSError as error:
            if error.errno != EINPROGRESS:  # it has its answer already
                self._broken(error)

    def close(self) -> None:
        """Deny what is held."""
        for request in self._held.values():
            self.deny(request)
        self._held.clear()

    def _carry_out(self, request: Request, action: Action) -> None:
        match action:
            case Continue():
                self._listener.let_continue(request.id)
            case Errno(number, reason):
                if reason:
                    self._report("denied", request, number, reason)
                self._listener.answer(request.id, error=number)
            case Value(value):
                self._listener.answer(request.id, value)
            case InjectFd():
                self._inject(request, action)
            case Delegate():
                self._delegate(request, action)
            case Hold(register):
                self._sweep()
                self._held[request.id] = request
                register(lambda late: self._release(request, late))
            case Kill(signal, reason):
                self._report("denied", request, EPERM, reason or f"killed by signal {signal}")
                self._kill(request, signal)
                self._listener.answer(request.id, error=EPERM)
            case Answered():
                return
            case _:
                assert_never(action)

    def _inject(self, request: Request, action: InjectFd) -> None:
        try:
            number = self._listener.inject(
                request.id, action.fd, target=action.target, close_on_exec=action.close_on_exec
            )
        finally:
            if action.owned:
                os.close(action.fd)
        if number is not None and action.then is not None:
            action.then(number)

    def _release(self, request: Request, action: Action) -> None:
        if self._held.pop(request.id, None) is not None:
            self.perform(request, action)
        elif isinstance(action, InjectFd) and action.owned:  # nobody waits for it any more
            os.close(action.fd)

    def _sweep(self) -> None:
        """Forget held requests whose tasks are gone, whenever their number has doubled."""
        if len(self._held) >= self._sweep_at:
            self._held = {one: held for one, held in self._held.items() if held.waits()}
            self._sweep_at = max(2 * len(self._held), _SWEEP)

    def _kill(self, request: Request, signal: int) -> None:
        with suppress(VanishedError, OSError):
            self._processes.of(request).send_signal(signal)

    async def delegated(self, request: Request, action: Delegate) -> Action:
        """Let a deputy make the call, and return what is left to answer."""
        deputies = self._deputies
        if deputies is None:
            return Errno(EPERM, "there is no deputy")
        number, arguments = action.number, action.arguments
        try:
            if action.opens:
                flags = os.O_CLOEXEC if action.close_on_exec else 0
                done = await deputies.call(
                    number, *arguments, answer=Answer.FD, notification=request.id, fd_flags=flags
                )
                return Answered(done.answered)
            if action.then is None:
                await deputies.call(number, *arguments, answer=Answer.VALUE, notification=request.id)
                return Answered()
            after = action.then(await deputies.call(number, *arguments))
        except (NotifError, OSError) as error:
            self._report("fault", request, EPERM, f"the deputy failed: {error}")
            return Errno(EPERM)
        return await self.delegated(request, after) if isinstance(after, Delegate) else after
