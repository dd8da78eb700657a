"""What all handlers of file calls share: finding a place, acting there through a deputy, freeing what was pinned."""

from __future__ import annotations

import asyncio
import inspect
import os
from contextlib import suppress
from errno import EIO, ENOENT, EPERM
from typing import TYPE_CHECKING, TypeVar

from sandlock_notif.action import Answered, Errno, Value
from sandlock_notif.errors import NotifError, Refusal
from sandlock_notif.fs.how import UncachedError
from sandlock_notif.fs.layers.generated import GeneratedLayer
from sandlock_notif.fs.layers.host import HostLayer
from sandlock_notif.fs.resolve import resolve
from sandlock_notif.fs.waiting import WaitingOpens
from sandlock_notif.memory import read_path
from sandlock_sys.capabilities import set_effective
from sandlock_sys.deputy import Answer
from sandlock_sys.proc import read_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandlock_notif.action import Action
    from sandlock_notif.deputies import Deputies
    from sandlock_notif.dispatch import Outcome
    from sandlock_notif.fs.how import Limits
    from sandlock_notif.fs.layers.layer import Layer
    from sandlock_notif.fs.location import Location
    from sandlock_notif.fs.view import View
    from sandlock_notif.request import Request
    from sandlock_sys.deputy import Completion
    from sandlock_sys.shortcut import Shortcut

__all__ = ["ANSWERED", "Files"]

ANSWERED = Answered()
Result = TypeVar("Result")


class Files:
    """The view, and the means to act in it. One per sandbox, shared by the handlers of all file calls.

    Attributes:
        view: where paths lead.
        numbers: system call numbers by name.
        shortcut: what serves the simplest calls without us.

    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.numbers: dict[str, int] = {}
        self.shortcut: Shortcut | None = None
        self._privileged = os.geteuid() == 0
        self.waiting = WaitingOpens(self)
        self.host = HostLayer(self, self.waiting)
        self.generated = GeneratedLayer(view)

    def attach(self) -> None:
        """Take the numbers of the architecture, once the view is attached."""
        self.numbers = self.view.services.arch.syscalls
        for mount in self.view.mounts:
            if mount.cow is not None:
                mount.cow.files = self

    def layer(self, place: Location) -> Layer:
        """Return what serves a place."""
        if place.file is not None:
            return self.generated
        if place.mount is not None and place.mount.cow is not None:
            return place.mount.cow
        return self.host

    def pin(self, place: Location) -> int:
        """Return an O_PATH fd, owned by the place, of what is there; ENOENT for a generated file."""
        if place.object < 0:
            if place.mount is None or place.mount.cow is None:
                raise Refusal(ENOENT)
            place.object = place.mount.cow.pinned(place)
        return place.object

    def check_metadata(self, place: Location) -> None:
        """Refuse to change what an inode says outside the write grants, which Landlock does not see (LL-01).

        Raises:
            Refusal: EPERM.

        """
        if not (self.view.may_change(place) if place.may_change is None else place.may_change):
            raise Refusal(EPERM, "it lies outside what may be written")

    def foresee(self, place: Location) -> Location:
        """Find out what `check_metadata` has to know, which takes a look at all folders above; return the place."""
        if self.layer(place) is self.host:
            place.may_change = self.view.may_change(place)
        return place

    @property
    def deputies(self) -> Deputies:
        """Who acts inside the sandbox's domain."""
        found = self.view.services.deputies
        if found is None:
            raise NotifError("there is no deputy to act on files")
        return found

    def at(
        self,
        request: Request,
        directory: int,
        argument: int,
        flags: int,
        act: Callable[[Location], Outcome],
        limits: Limits | None = None,
    ) -> Outcome:
        """Find the place that the path in an argument leads to, and `act` there.

        The place is closed after `act`, or after what `act` returned was awaited.
        """
        return self.at_path(request, directory, read_path(request, argument), flags, act, limits)

    def at_path(
        self,
        request: Request,
        directory: int,
        path: bytes,
        flags: int,
        act: Callable[[Location], Outcome],
        limits: Limits | None = None,
    ) -> Outcome:
        """As `at`, for a path that was copied already."""
        had = self._give_up()
        try:
            place = resolve(self.view, request, directory, path, flags, limits)
            return self._act(place, act)
        except UncachedError:
            return self._at_later(request, directory, path, flags, act, limits)
        finally:
            if had:
                set_effective(had)

    def ask(
        self,
        request: Request,
        directory: int,
        path: bytes,
        flags: int,
        ask: Callable[[Location], Result],
        tell: Callable[[Result], Outcome],
    ) -> Outcome:
        """As `at_path`, to `ask` something about the place and `tell` the child what that returned.

        Where the file system has a server, which may never answer, a thread asks. It does nothing for the child.
        """

        def act(place: Location) -> Outcome:
            identity, found = place.identity, place.object
            if identity is None or found < 0 or self.view.systems.is_prompt(found, identity[0]):
                return tell(ask(place))
            return self._ask_later(place, ask, tell)

        return self.at_path(request, directory, path, flags, act)

    async def _ask_later(
        self, place: Location, ask: Callable[[Location], Result], tell: Callable[[Result], Outcome]
    ) -> Action | None:
        asked = asyncio.get_running_loop().run_in_executor(self.view.systems.pool, ask, place)
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            kept = place.given_away()  # the thread may be using them for as long as it waits
            asked.add_done_callback(lambda _: kept.close())
            raise
        except OSError as error:
            return Errno(error.errno or EIO)
        outcome = self.unprivileged(lambda: tell(answer))
        if outcome is None or not inspect.isawaitable(outcome):
            return outcome
        return await outcome

    def _give_up(self) -> int:
        """Give up what the host's root may do while this thread looks or acts for a child, which may not."""
        return set_effective(0) if self._privileged else 0

    def unprivileged(self, look: Callable[[], Result]) -> Result:
        """Return what `look` returns, called without what the host's root may do."""
        had = self._give_up()
        try:
            return look()
        finally:
            if had:
                set_effective(had)

    async def _at_later(
        self,
        request: Request,
        directory: int,
        path: bytes,
        flags: int,
        act: Callable[[Location], Outcome],
        limits: Limits | None,
    ) -> Action | None:
        def wait() -> Location:
            return resolve(self.view, request, directory, path, flags, limits, wait=True)

        found = asyncio.get_running_loop().run_in_executor(self.view.systems.pool, wait)
        try:
            place = await asyncio.shield(found)
        except asyncio.CancelledError:
            found.add_done_callback(_drop)
            raise
        had = self._give_up()
        try:
            outcome = self._act(place, act)
        finally:
            if had:
                set_effective(had)
        if outcome is None or not inspect.isawaitable(outcome):
            return outcome
        return await outcome

    def _act(self, place: Location, act: Callable[[Location], Outcome]) -> Outcome:
        try:
            outcome = act(place)
        except BaseException:
            place.close()
            raise
        if outcome is not None and inspect.isawaitable(outcome):
            return _then_close(outcome, place)
        place.close()
        return outcome

    def post(
        self,
        request: Request,
        call: str,
        *arguments: int | bytes,
        places: tuple[Location, ...] = (),
        opens: bool = False,
        close_on_exec: bool = False,
        umask: int | None = None,
        fds: tuple[int, ...] = (),
    ) -> Answered:
        """Let a deputy make the call and answer the child with its result; the places are closed when it is done.

        Arguments:
            request: to be answered.
            call: the system call's name.
            arguments: as `Deputy.submit` wants them.
            places: whose fds the call needs.
            opens: the call returns an fd, which the child gets.
            close_on_exec: as the child gets it.
            umask: to be in force during the call.
            fds: to be closed as well.

        """
        held = [fd for place in places for fd in {place.directory, place.object} if fd >= 0]
        held += fds
        for place in places:
            place.directory = place.object = -1

        def done(completion: Completion) -> None:
            _ = completion
            for fd in held:
                os.close(fd)

        first = () if umask is None else ((self.numbers["umask"], umask),)
        try:
            self.deputies.post(
                self.numbers[call],
                *arguments,
                done=done,
                answer=Answer.FD if opens else Answer.VALUE,
                notification=request.id,
                fd_flags=os.O_CLOEXEC if close_on_exec else 0,
                first=first,
            )
        except BaseException:
            for fd in held:
                os.close(fd)
            raise
        if opens and self.shortcut is not None:
            self.shortcut.open_by(self.deputies.last)  # which is not blocked, or we have no other
        return ANSWERED

    def lend(self) -> None:
        """Let the shortcut open what it can from now on; for who served an open without a deputy."""
        if self.shortcut is not None and self.view.services.deputies is not None:
            self.shortcut.open_by(self.deputies.ready())

    async def post_free(self, request: Request, call: str, fd: int, *arguments: int | bytes) -> Action:
        """Make a call on a file of a branch's storage, which is no business of the deputies' domain; closes `fd`.

        The deputies are confined; but none of these calls is one that Landlock restricts on an fd.
        """
        _ = request
        try:
            done = await self.call(call, fd, *arguments)
        finally:
            os.close(fd)
        return Errno(-done.result) if done.result < 0 else Value(done.result)

    async def call(self, call: str, *arguments: int | bytes | bytearray, umask: int | None = None) -> Completion:
        """Let a deputy make the call, and return what became of it; nobody is answered."""
        deputies = self.deputies
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()

        def done(completion: Completion) -> None:
            if not future.done():
                future.set_result(completion)

        first = () if umask is None else ((self.numbers["umask"], umask),)
        deputies.post(self.numbers[call], *arguments, done=done, first=first)
        return await future

    def umask(self, request: Request) -> int:
        """Return the caller's umask, which it may change without our notice (NOT-26).

        Raises:
            Refusal: it cannot be read.

        """
        try:
            value = read_status(request.tid).umask
        except (OSError, ValueError) as error:
            raise Refusal(EPERM, f"the umask of thread {request.tid} cannot be read") from error
        if value is None:  # before 4.7
            raise Refusal(EPERM, "this kernel does not tell a umask")
        return value


def _drop(found: asyncio.Future[Location]) -> None:
    """Close the place that nobody waits for any more."""
    with suppress(Exception, asyncio.CancelledError):
        found.result().close()


async def _then_close(outcome: Awaitable[Action | None], place: Location) -> Action | None:
    try:
        return await outcome
    finally:
        place.close()
