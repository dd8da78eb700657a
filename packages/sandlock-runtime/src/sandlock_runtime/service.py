"""The supervisor of one sandbox, as the thread that launches and ends the sandbox sees it."""

from __future__ import annotations

import asyncio
import os
from _thread import allocate_lock
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from errno import EINVAL
from fcntl import F_DUPFD_CLOEXEC, fcntl
from functools import partial
from typing import TYPE_CHECKING

from sandlock_arch import native
from sandlock_notif import Dispatch, Event, Listener, Processes, Services, Supervisor
from sandlock_notif.deputies import Deputies
from sandlock_policy.seccomp.supervised import compile_supervised
from sandlock_runtime.handover import Relay, take_listener, takes_fds
from sandlock_runtime.loop import shared_loop
from sandlock_runtime.result import Denial, Reason
from sandlock_runtime.switch_interval import short_switches
from sandlock_runtime.tables import is_in_memory, limits_for, rules_for, tables_for
from sandlock_sys.constants.seccomp import FilterFlag
from sandlock_sys.deputy import Deputy
from sandlock_sys.spawn import SpawnError

if TYPE_CHECKING:
    from sandlock_notif.dispatch import BoundPort
    from sandlock_notif.handlers.tracking import TrackingTable
    from sandlock_notif.timeline import Timeline
    from sandlock_policy import Context, Plan, Policy
    from sandlock_runtime.hooks import Hooks
    from sandlock_runtime.served_view import ServedView
    from sandlock_runtime.web import Web
    from sandlock_sys.spawn import Spawned, SpawnRequest

__all__ = ["Service"]

_working: set[asyncio.Task[None]] = set()
_MAX_DENIALS = 1000  # different ones that a result names; what happened more often is counted
_killable = FilterFlag.WAIT_KILLABLE_RECV  # cleared for good where the kernel does not know it (before 5.19)


class Service:
    """Serves one sandbox from the launch to its end, in the shared loop.

    Arguments:
        policy, context, plan: what is to be enforced, and the run that it was resolved for.
        hooks: the caller's callback and handlers.
        names: the addresses of every host name in the policy.
        web: its HTTP proxy, which is closed with the service.
        shown: the root, the mounts and the branch that it serves, or None.

    Attributes:
        cause: the `Reason` for which the supervisor ended the sandbox, or "".
        served: notifications answered.

    """

    def __init__(
        self,
        policy: Policy,
        context: Context,
        plan: Plan,
        hooks: Hooks | None,
        names: Mapping[str, Sequence[str]],
        web: Web | None = None,
        shown: ServedView | None = None,
    ) -> None:
        self._arch = native()
        self._tables = tables_for(policy, context, plan, hooks, names, web, shown, killable=bool(_killable))
        self._limits = limits_for(policy)
        self._rules = rules_for(policy, plan, self._tables)
        self._audits = hooks.audits if hooks is not None else ()
        self._timelines = hooks.timelines if hooks is not None else ()
        self._timeline: Timeline | None = None
        self._plan = plan
        self._options = plan.filter
        if hooks is not None and hooks.trackable:
            self._options = plan.filter.__replace__(watched=True)  # type: ignore[attr-defined]  # dataclasses: 3.13
        self._web = web
        self._telling = allocate_lock()  # the proxy has a thread of its own
        if web is not None:
            web.sink = self._take
        self._thread = shared_loop()
        self._supervisor: Supervisor | None = None
        self._ruleset = -1
        self._denials: dict[tuple[str, int, str, str, str], int] = {}
        self._kill: Callable[[str], None] | None = None
        self._finished = False
        self._held = ExitStack()
        self._relay: Relay | None = None
        self.cause = ""
        self.served = 0

    def prepare(self, request: SpawnRequest) -> None:
        """Put the filter into the request; the child parks, so that its listener can be taken."""
        request.limits = (*request.limits, *self._limits)
        request.filter = compile_supervised(self._arch, self._options, self._rules)
        request.filter_flags = FilterFlag.NEW_LISTENER | _killable
        request.park = True
        if not takes_fds():
            self._relay = Relay(request)

    def writes_below(self, scratch: str) -> None:
        """Tell who counts files in memory about the private temporary directory."""
        if self._plan.private_tmp and self._limits and is_in_memory(scratch):
            for table in self._tables:
                table.writes_below(scratch)

    def forget_killable(self, error: SpawnError) -> bool:
        """Tell whether the launch failed only because this kernel is older than a flag; it is not asked for again."""
        global _killable  # noqa: PLW0603  # one fact about the host
        old = error.step == "seccomp" and error.errno == EINVAL and bool(_killable)
        if old:
            _killable = FilterFlag(0)
        return old

    def begin(self, spawned: Spawned, ruleset: int) -> None:
        """Take the parked child's listener and answer from now on.

        Arguments:
            spawned: the parked child.
            ruleset: fd of its Landlock ruleset, borrowed, or -1.

        """
        fd, live = take_listener(spawned) if self._relay is None else self._relay.take()
        listener = Listener(fd)
        self._held.enter_context(short_switches())
        if live >= 0:
            self._show_memory(live)
        if ruleset >= 0:
            self._ruleset = fcntl(ruleset, F_DUPFD_CLOEXEC, 3)
        if any(table.while_parked for table in self._tables):
            self._thread.do(lambda: self._begin(listener, spawned))
        else:
            # Calls that come before it is ready wait in the kernel. A failure ends the sandbox.
            self._thread.loop.call_soon_threadsafe(self._begin_alone, listener, spawned)

    def begin_restore(self) -> None:
        """Let execs pass unseen until `end_restore`: the images that they make are empty."""
        from sandlock_runtime.stillness import begin_restore  # lazy: as above

        self._thread.call(begin_restore(self._tables))

    def end_restore(self, pids: Iterable[int]) -> None:
        """Look at the images of stopped processes as at every new one, and at every further exec."""
        from sandlock_runtime.stillness import end_restore  # lazy: as above

        end_restore(self._tables, pids)

    def tracked_by(self) -> TrackingTable | None:
        """Return who lets a tracker's call through, where the run was launched so."""
        if not self._options.watched:
            return None
        from sandlock_notif.handlers.tracking import TrackingTable  # lazy: few runs are watched

        return next((table for table in self._tables if isinstance(table, TrackingTable)), None)

    def _show_memory(self, fd: int) -> None:
        for table in self._tables:
            if table.show_memory(fd):
                return
        os.close(fd)

    def watch(self, kill: Callable[[str], None]) -> None:
        """Call `kill` with a Reason, in the loop's thread, when the sandbox has to end."""
        self._kill = kill
        if self.cause:  # it came before anybody listened
            kill(self.cause)

    def finish(self) -> None:
        """Stop, deny what waits, free everything; twice is fine."""
        with self._held:
            if self._relay is not None:
                self._relay.close()
            if self._thread.alive and not self._finished:
                self._finished = True
                if self._supervisor is not None:
                    self.served = self._supervisor.served
                if self._timelines or any(table.while_parked for table in self._tables):
                    self._thread.call(self._finish())  # the record, if there is one, is to be whole
                else:
                    # Nobody is left to be served, so nobody waits for it; it comes behind a beginning under way.
                    self._later(self._finish())
            if self._web is not None:
                self._web.close()

    def ports(self) -> dict[int, int]:
        """Return the ports that are bound inside, and the real one of each; a TCP port wins over a UDP port."""
        if self._finished or not self._thread.alive:
            return {}
        found = sorted(self._thread.call(self._look_at_ports()), key=lambda port: port.protocol != "udp")
        return {port.inside: port.outside for port in found}

    async def _look_at_ports(self) -> list[BoundPort]:
        if self._supervisor is None:  # before the beginning, or behind the end
            return []
        return [port for table in self._tables for port in table.ports()]

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What was refused, each once with its count, in the order of the first time."""
        return tuple(
            Denial(syscall, errno, reason, target, flag, count)
            for (syscall, errno, reason, target, flag), count in list(self._denials.items())
        )

    def _later(self, work: Coroutine[object, object, None]) -> None:
        """Run `work` on the loop without waiting; in the order of the calls."""
        self._thread.loop.call_soon_threadsafe(self._start, work)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = self._thread.loop.create_task(work)
        _working.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(_working.discard)

    def _begin_alone(self, listener: Listener, spawned: Spawned) -> None:
        try:
            self._begin(listener, spawned)
        except Exception:  # noqa: BLE001  # whatever it is, nobody waits for it: the sandbox ends, and says so
            self._end(Reason.SUPERVISOR)

    def _begin(self, listener: Listener, spawned: Spawned) -> None:
        """Let the listener be answered. Where that fails it is closed, and what else there is is for `finish`."""
        try:
            self._attach(listener, spawned)
        except BaseException:
            listener.close()
            raise

    def _attach(self, listener: Listener, spawned: Spawned) -> None:
        loop = self._thread.loop
        processes = Processes(loop, root=spawned.guard.pid)
        deputies = Deputies(loop, listener.fileno(), self._confine)
        supervisor = Supervisor(
            listener, Dispatch(self._arch, self._tables), processes=processes, deputies=deputies, sink=self._take
        )
        self._supervisor = supervisor
        services = Services(
            loop, self._arch, processes, deputies, supervisor.report, spawned.pid, partial(self._end, Reason.MEMORY)
        )
        for table in self._tables:
            table.attach(services)
        if self._timelines:
            self._record(supervisor, spawned.pid)
        supervisor.start().add_done_callback(self._ended)

    def _record(self, supervisor: Supervisor, pid: int) -> None:
        """Begin to tell what the run does over time."""
        from sandlock_notif.handlers.endings import Endings  # lazy: for who keeps a record
        from sandlock_notif.timeline import Timeline

        def memory() -> int | None:
            return next((found for table in self._tables if (found := table.largest_use()) is not None), None)

        self._timeline = Timeline(self._note, supervisor.answered, memory)
        self._timeline.begin(self._thread.loop, supervisor.processes, pid)
        for table in self._tables:
            if isinstance(table, Endings):
                table.look = self._timeline.last_look

    def _note(self, kind: str, facts: Mapping[str, object]) -> None:
        for note in self._timelines:
            with suppress(Exception):  # a record that cannot be kept keeps nobody from anything
                note(kind, facts)

    async def _finish(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        self._kill = None
        if self._timeline is not None:
            self._timeline.close()
        await supervisor.close()
        for table in self._tables:
            with suppress(Exception):  # a domain that cannot free itself keeps nobody's result
                await table.close()
        ruleset, self._ruleset = self._ruleset, -1
        if ruleset >= 0:
            os.close(ruleset)

    def _confine(self, deputy: Deputy) -> None:
        if self._ruleset >= 0:
            deputy.restrict_self(self._ruleset)

    def _ended(self, done: asyncio.Future[None]) -> None:
        """The listener is done: normally because no task is left. A failure ends the sandbox, nothing goes unserved."""
        if not done.cancelled() and done.exception() is not None:
            self._end(Reason.SUPERVISOR)

    def _end(self, cause: str) -> None:
        self.cause = self.cause or cause
        if self._kill is not None:
            self._kill(self.cause)

    def _take(self, event: Event) -> None:
        """Count an event and pass it on, one at a time; called in the loop's thread, or in the proxy's."""
        with self._telling:
            self._count(event)
            for audit in self._audits:
                with suppress(Exception, SystemExit, asyncio.CancelledError):  # none of them keeps it from the others
                    audit(event)

    def _count(self, event: Event) -> None:
        if event.kind == "limit":
            # Of memory the offender is dead, and what can do without it goes on.
            self.cause = self.cause or (Reason.DISK if event.reason == "disk" else Reason.MEMORY)
            return
        if event.kind in ("audit", "bound"):
            return
        target = event.detail.get("endpoint", event.detail.get("path", ""))
        key = (event.syscall, event.errno, event.reason, str(target), str(event.detail.get("flag", "")))
        if key in self._denials or len(self._denials) < _MAX_DENIALS:
            self._denials[key] = self._denials.get(key, 0) + 1
