"""Clones: a template process is initialised once, and copy-on-write copies of it work side by side."""

from __future__ import annotations

import os
import sys
import threading
from select import POLLIN, poll
from typing import TYPE_CHECKING

from sandlock_policy.record import record
from sandlock_runtime.code_paths import import_paths, main_script, with_code
from sandlock_runtime.errors import ForkError
from sandlock_runtime.pickling import pickled
from sandlock_runtime.pipes import pipe_above
from sandlock_runtime.streams import DEVNULL, PIPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from sandlock_policy import Policy
    from sandlock_runtime.life import Life
    from sandlock_runtime.result import Result

__all__ = ["CloneResult", "Clones", "fork"]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[5]); from sandlock_runtime.template import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])"
)
_CHUNK = 1 << 16
_MAX_REPORT = 1 << 20


@record(frozen=True, slots=True)
class CloneResult:
    """What became of one clone.

    Attributes:
        clone: its number, which was its argument and its CLONE_ID.
        exit_code: 0 when `work_fn` returned, 1 when it raised; -1 when a signal ended it, or when nothing was heard.
        signal: the number of the signal that ended it, or None.
        stdout: what it wrote there, up to the bound.
        stdout_dropped: bytes past the bound.

    """

    clone: int
    exit_code: int = -1
    signal: int | None = None
    stdout: bytes = b""
    stdout_dropped: int = 0

    @property
    def success(self) -> bool:
        """Whether `work_fn` returned."""
        return self.exit_code == 0


class Clones:
    """The clones of one template. They run; `wait` for what became of them.

    Their output is drained from the beginning, by a thread, so none waits for another or for the caller.
    """

    def __init__(
        self, life: Life, end: Callable[[Life], None], fds: list[int], report: int, policy: Policy, bound: int | None
    ) -> None:
        self._life = life
        self._end = end
        self._policy = policy
        self._fds = fds
        self._report = report
        self._bound = bound
        self._said = bytearray()
        self._kept = [bytearray() for _ in fds]
        self._dropped = [0] * len(fds)
        self._result: Result | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._drive, name="sandlock-clones", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[CloneResult]:
        return iter(self.wait())

    def wait(self, timeout: float | None = None) -> tuple[CloneResult, ...]:
        """Wait for all clones and return their results, in the order of their numbers.

        Raises:
            TimeoutError: `timeout` seconds passed; they run on.
            ForkError: the template ended before it had made the clones.

        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"clones are still running after {timeout} s")
        if self._failure is not None:
            raise self._failure
        ready, ends = self._reported()
        if not ready:
            raise ForkError(f"the template was not initialised: {self._told()}")
        return tuple(self._of(number, ends.get(number)) for number in range(len(self)))

    @property
    def result(self) -> Result:
        """The result of the whole sandbox, when all has ended: why, what it cost, what was denied."""
        self.wait()
        assert self._result is not None  # noqa: S101  # the thread has ended, and without a failure
        return self._result

    def kill(self) -> None:
        """Kill the template and all clones."""
        self._life.kill()

    def __enter__(self) -> Self:
        """Return the clones themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what is left."""
        self._life.close()
        self._thread.join()

    def _of(self, number: int, status: int | None) -> CloneResult:
        code = -1 if status is None else os.waitstatus_to_exitcode(status)
        signal = -code if status is not None and code < 0 else None
        return CloneResult(number, max(code, -1), signal, bytes(self._kept[number]), self._dropped[number])

    def _told(self) -> str:
        result = self._result
        if result is None:
            return "no result"
        said = result.stderr[-400:].decode("utf-8", "backslashreplace").strip()
        return f"{result.reason}, exit code {result.exit_code}" + (f": {said}" if said else "")

    def _reported(self) -> tuple[bool, dict[int, int]]:
        """Return what the template said. It is confined, and may say anything: what makes no sense is left out."""
        ready = False
        ends: dict[int, int] = {}
        for line in bytes(self._said).split(b"\n"):
            words = line.split()
            if words == [b"ready"]:
                ready = True
            elif len(words) == 2 and all(word.isdigit() and len(word) < 7 for word in words):
                number, status = int(words[0]), int(words[1])
                if number < len(self) and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
                    ends.setdefault(number, status)
        return ready, ends

    def _drive(self) -> None:
        """See the template to its end, while another thread takes what the clones write."""
        try:
            self._life.attach(b"", _MAX_REPORT)
            policy = self._policy
            drain = threading.Thread(target=self._drain, name="sandlock-clones", daemon=True)
            drain.start()
            try:
                self._result = self._life.run(policy.timeout, policy.grace)
            finally:
                self._end(self._life)
                drain.join()
        except BaseException as error:  # noqa: BLE001  # raised by whoever waits
            self._failure = error

    def _drain(self) -> None:
        """Take what the clones write until all of them have closed it."""
        watch = poll()
        open_fds = {fd: number for number, fd in enumerate(self._fds)}
        for fd in (*open_fds, self._report):
            watch.register(fd, POLLIN)
        while open_fds or self._report >= 0:
            for fd, _ in watch.poll():
                data = os.read(fd, _CHUNK)
                if data:
                    self._keep(open_fds.get(fd, -1), data)
                    continue
                watch.unregister(fd)
                os.close(fd)
                if fd == self._report:
                    self._report = -1
                else:
                    del open_fds[fd]

    def _keep(self, number: int, data: bytes) -> None:
        kept, bound = (self._said, _MAX_REPORT) if number < 0 else (self._kept[number], self._bound)
        room = len(data) if bound is None else max(bound - len(kept), 0)
        kept += data[:room]
        if number >= 0:
            self._dropped[number] += max(len(data) - room, 0)


def fork(
    launch: Callable[..., Life],
    end: Callable[[Life], None],
    policy: Policy,
    functions: tuple[Callable[[], object] | None, Callable[[int], object]],
    count: int,
    bound: int | None,
) -> Clones:
    """Start a template in a sandbox and have it make `count` clones; `Sandbox.fork` tells the rest.

    Arguments:
        launch: of the sandbox, `Sandbox._launch`.
        end: frees what `launch` returned, once it has ended.
        policy: of the sandbox.
        functions: what the template calls first, or None; and what each clone calls with its number.
        count: from 1 on.
        bound: bytes of each clone's output that are kept; None for all.

    """
    if count < 1:
        raise ValueError(f"the number of clones is from 1 on, not {count}")
    if bound is not None and bound < 0:
        raise ValueError(f"max_output is a number of bytes, not {bound}")
    held: list[int] = []
    try:
        job = os.memfd_create("sandlock-job")
        held.append(job)
        with os.fdopen(os.dup(job), "wb") as file:
            file.write(pickled(functions))
        os.lseek(job, 0, os.SEEK_SET)
        pairs = [pipe_above(held) for _ in range(count + 1)]
        outputs = [write for _, write in pairs]
        command = [
            sys.executable, "-P", "-c", _START, str(job), str(outputs[-1]), str(outputs[:-1]), main_script(),
            import_paths(),
        ]  # fmt: skip
        life = launch(command, DEVNULL, PIPE, PIPE, (job, *outputs), policy=with_code(policy))
        mine = [read for read, _ in pairs]
        for fd in mine:
            held.remove(fd)
        return Clones(life, end, mine[:-1], mine[-1], policy, bound)
    finally:
        for fd in held:
            os.close(fd)
