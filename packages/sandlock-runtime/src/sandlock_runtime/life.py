"""One sandbox from spawn to last reap: its guard, its streams, its end."""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from errno import EAGAIN, EPIPE
from select import POLLIN, POLLOUT, poll

from sandlock_runtime.errors import NotRunningError, SandboxError
from sandlock_runtime.result import CLOSED, Reason, make_result
from sandlock_runtime.scratch import remove_scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from sandlock_policy import Plan, Protection
    from sandlock_runtime.branching import RunBranch
    from sandlock_runtime.prepare import Program
    from sandlock_runtime.result import Result
    from sandlock_runtime.service import Service
    from sandlock_runtime.streams import Streams
    from sandlock_sys.guard import Guard
    from sandlock_sys.spawn import Spawned

    class Clock(Protocol):
        """What bounds an exchange."""

        def left_ms(self) -> float | None: ...
        def act(self) -> bool: ...


__all__ = ["Deadline", "Life", "Patience"]

# The same numbers on every architecture here; `signal` itself takes 6 ms to import.
_SIGTERM, _SIGCONT, _SIGSTOP = 15, 18, 19
_UNKILLABLE_S = 60.0  # a process in an uninterruptible kernel wait outlives its SIGKILL; nobody waits for it for ever
_CHUNK = 1 << 16  # a pipe's default capacity


class _Sink:
    """What has been read from one stream, up to a bound; the rest is counted and dropped."""

    __slots__ = ("chunks", "dropped", "ended", "fd", "room")

    def __init__(self, fd: int, bound: int | None) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.chunks: list[bytes] = []
        self.room = -1 if bound is None else bound
        self.dropped = 0
        self.ended = False

    def read(self) -> bool:
        """Take what is there now; False at the end of the stream."""
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return True
        self._keep(data)
        self.ended = not data
        return not self.ended

    def drain(self) -> None:
        """Take the rest without waiting: every writer inside is dead, and one outside is not waited for."""
        try:
            while True:
                data = os.read(self.fd, _CHUNK)
                if not data:
                    return
                self._keep(data)
        except BlockingIOError:
            return

    def _keep(self, data: bytes) -> None:
        if self.room >= 0:
            self.dropped += max(len(data) - self.room, 0)
            data = data[: self.room]
            self.room -= len(data)
        if data:
            self.chunks.append(data)


class Life:
    """A running sandbox. Made by `launch`; ended by `finish`, which must be called once.

    Attributes:
        pid: process id of the first process.
        guard_pid: process id of its parent, the guard.
        program: what is executed.
        plan: what is enforced.
        branch: where its writes below `workdir` go, or None.
        service: its supervisor, or None.
        at_end: called with the result, once; None for nobody.

    """

    def __init__(
        self,
        spawned: Spawned,
        streams: Streams,
        program: Program,
        plan: Plan,
        scratch: str,
        started: float,
        service: Service | None = None,
        branch: RunBranch | None = None,
    ) -> None:
        self.pid = spawned.pid
        self.guard_pid = spawned.guard.pid
        self.program = program
        self.plan = plan
        self.streams = streams
        self._spawned = spawned
        self._guard: Guard = spawned.guard
        self.service = service
        self.branch = branch
        self.at_end: Callable[[Result], None] | None = None
        self._scratch = scratch
        self._started = started
        self._cause = ""
        self._paused = False
        self._result: Result | None = None
        self._sinks: list[_Sink | None] | None = None
        self._source = -1
        self._feed = memoryview(b"")
        # Orders may come from any thread while another one waits; the lock keeps them off a closed control socket.
        self._lock = allocate_lock()
        self._going = allocate_lock()

    @property
    def protections(self) -> tuple[Protection, ...]:
        """What is enforced, and by which layer."""
        return self.plan.protections

    @property
    def ended(self) -> bool:
        """Whether no process of the sandbox is left."""
        return self.wait(0.0)

    def fileno(self) -> int:
        """A borrowed fd that is readable when no process of the sandbox is left."""
        return self._guard.fileno()

    def go(self) -> None:
        """Let a parked child execute its program; SpawnError when it cannot be executed."""
        with self._going:  # the child stands in memory that `finish` frees
            self._spawned.go()

    def ports(self) -> dict[int, int]:
        """Return the ports that the sandbox has bound, and the real one of each."""
        return self.service.ports() if self.service is not None else {}

    def kill(self, cause: str = Reason.KILLED) -> None:
        """Kill every process of the sandbox. Unless all had ended before, the result says so; no success."""
        with self._lock:
            if not self._over():
                self._blame(cause)
                self._guard.kill()

    def close(self) -> None:
        """Kill what is left. A program that had ended by itself before that counts as it ended."""
        self.kill(CLOSED)

    def expire(self) -> None:
        """Tell everyone that the time is over: SIGTERM, and SIGCONT so that a stopped process hears it."""
        with self._lock:
            if not self._over():
                self._blame(Reason.TIMEOUT)
                self._guard.signal_all(_SIGTERM)
                self._guard.signal_all(_SIGCONT)

    def signal(self, number: int, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or to everyone in the sandbox.

        Raises:
            NotRunningError: it has ended.

        """
        with self._lock:
            if self._over():
                raise NotRunningError("the process has ended")
            if everyone:
                self._paused = number == _SIGSTOP or (self._paused and number != _SIGCONT)
                self._guard.signal_all(number)
            else:
                self._guard.signal_main(number)

    def hold_back(self) -> None:
        """Stop everyone for a moment, for the throttle's sake; NotRunningError when it has ended."""
        with self._lock:
            if self._over():
                raise NotRunningError("the process has ended")
            self._guard.signal_all(_SIGSTOP)

    def let_go(self) -> None:
        """Undo `hold_back`, unless the caller has paused everyone meanwhile."""
        with self._lock:
            if not self._over() and not self._paused:
                self._guard.signal_all(_SIGCONT)

    def _blame(self, cause: str) -> None:
        self._cause = self._cause or ("" if self.wait(0.0) else cause)

    def _over(self) -> bool:
        """Whether there is nobody to take orders: it is finished, or a parked child's exec has failed."""
        return self._result is not None or self._guard.fileno() < 0

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until no process is left; False when `timeout_s` seconds passed first."""
        if self._result is not None:
            return True
        fd = self._guard.fileno()
        if fd < 0:  # another thread is in `finish`
            return True
        watch = poll()
        watch.register(fd, POLLIN)
        return bool(watch.poll(None if timeout_s is None else max(timeout_s * 1000, 0)))

    def attach(self, feed: bytes = b"", bound: int | None = None) -> None:
        """Take the caller's ends of the streams that are pipes, to be fed and drained by `exchange`; once.

        Arguments:
            feed: bytes for stdin, where that is a pipe.
            bound: bytes to keep of stdout and of stderr each, or None for all.

        """
        if self._sinks is not None:
            return
        self._sinks = [_Sink(fd, bound) if fd >= 0 else None for fd in (self.streams.take(1), self.streams.take(2))]
        self._source = self.streams.take(0)
        self._feed = memoryview(feed)
        if self._source >= 0:
            os.set_blocking(self._source, False)

    def run(self, deadline_s: float | None, grace_s: float) -> Result:
        """Pass data until the end, and return the result.

        Arguments:
            deadline_s: seconds until everyone gets SIGTERM, or None.
            grace_s: seconds from then until SIGKILL.

        """
        self.exchange(Deadline(self, deadline_s, grace_s))
        return self.finish()

    def exchange(self, clock: Clock) -> bool:
        """Pass data until no process is left; False when `clock` ended it first. Can be called again then."""
        if self._result is not None:
            return True
        # The report comes a little before the guard's end, and until then there is something to do here.
        guard, report = self._guard.fileno(), self._guard.report_fileno()
        watch = poll()
        watch.register(guard, POLLIN)
        watch.register(report, POLLIN)
        readers = {sink.fd: sink for sink in self._sinks or () if sink and not sink.ended}
        for fd in readers:
            watch.register(fd, POLLIN)
        if self._source >= 0:
            watch.register(self._source, POLLOUT)
        while True:
            for fd, _ in watch.poll(clock.left_ms()):
                if fd in (guard, report):
                    return True
                if fd == self._source:
                    self._feed = _write(fd, self._feed)
                    if not self._feed:
                        watch.unregister(fd)
                        os.close(fd)
                        self._source = -1
                elif not readers[fd].read():
                    watch.unregister(fd)
            if clock.act():
                return False

    def finish(self) -> Result:
        """Wait for the guard, free everything, and return the result; later calls return the same.

        Raises:
            SandboxError: it was killed, and some process of it does not die; nothing is freed.

        """
        service = self.service
        if service is not None and self._result is None:
            # Outside the lock: the supervisor serves until the end, and its last act may be an order to kill.
            if not self.wait(_UNKILLABLE_S if self._cause else None):
                raise unkillable()
            service.finish()
        with self._lock:
            if self._result is not None:
                return self._result
            if self._cause and not self.wait(_UNKILLABLE_S):
                raise unkillable()
            with self._going:
                report = self._guard.report()
            wall_s = time.monotonic() - self._started
            output, dropped = self._collect()
            self._result = make_result(
                report,
                wall_s,
                self.protections,
                cause=self._cause or (service.cause if service is not None else ""),
                output=output,
                dropped=dropped,
                denials=service.denials if service is not None else (),
                notifications=service.served if service is not None else 0,
            )
            self._guard.close()
            self._spawned.abandon()  # forgets the memory that is gone now
            if self.branch is not None:
                self._result = self.branch.settle(self._result)
        self.streams.restore()
        self.streams.close()
        if self._scratch:
            remove_scratch(self._scratch)
        if self.at_end is not None:
            self.at_end(self._result)
        return self._result

    def _collect(self) -> tuple[tuple[bytes, bytes], tuple[int, int]]:
        """Take what the streams still hold and close them."""
        if self._source >= 0:
            os.close(self._source)
            self._source = -1
        output, dropped = [b"", b""], [0, 0]
        for index, sink in enumerate(self._sinks or ()):
            if sink:
                if not sink.ended:
                    sink.drain()
                os.close(sink.fd)
                output[index], dropped[index] = b"".join(sink.chunks), sink.dropped
        return (output[0], output[1]), (dropped[0], dropped[1])


class Patience:
    """A clock that ends a wait, and nothing else."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def left_ms(self) -> float | None:
        """Milliseconds that are left, for poll; None for no bound."""
        return None if self._at is None else max((self._at - time.monotonic()) * 1000 + 1, 0)

    def act(self) -> bool:
        """Whether the wait is over."""
        return self._at is not None and time.monotonic() >= self._at


class Deadline:
    """The end by time: SIGTERM to everyone, then SIGKILL, then giving up on the unkillable."""

    def __init__(self, life: Life, seconds: float | None, grace_s: float) -> None:
        self._life = life
        self._grace_s = grace_s
        self._at = None if seconds is None else time.monotonic() + seconds
        self._stage = 0

    def left_ms(self) -> float | None:
        """Milliseconds until the next step, for poll; None for no bound."""
        return None if self._at is None else max((self._at - time.monotonic()) * 1000 + 1, 0)

    def act(self) -> bool:
        """Take the next step if it is due; the wait itself goes on until the kill has worked."""
        if self._at is None or time.monotonic() < self._at:
            return False
        self._stage += 1
        if self._stage == 1 and self._grace_s > 0:
            self._life.expire()
            self._at += self._grace_s
        elif self._stage <= 2:
            self._stage = 2
            self._life.kill(Reason.TIMEOUT)
            self._at += _UNKILLABLE_S
        else:
            raise unkillable()
        return False


def unkillable() -> SandboxError:
    """Return the error for a process that outlives its SIGKILL."""
    return SandboxError(f"a process of the sandbox is still there {_UNKILLABLE_S:.0f} s after SIGKILL: "
                        "it waits in the kernel, for a dead file server perhaps")  # fmt: skip


def _write(fd: int, data: memoryview) -> memoryview:
    """Write what fits; return the rest, empty when nobody reads any more."""
    try:
        return data[os.write(fd, data[:_CHUNK]) :]
    except OSError as error:
        if error.errno == EPIPE:
            return data[:0]
        if error.errno == EAGAIN:
            return data
        raise
