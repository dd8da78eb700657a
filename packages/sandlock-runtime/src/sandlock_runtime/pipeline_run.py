"""One run of a pipeline: every stage started, connected by pipes, driven by a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from sandlock_policy.record import record
from sandlock_runtime.errors import SandboxBusyError
from sandlock_runtime.inputs import VARIABLE
from sandlock_runtime.pipes import close_held, pass_on, pipe_above
from sandlock_runtime.streams import DEVNULL, PIPE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from sandlock_runtime.life import Life
    from sandlock_runtime.pipeline import Pipeline, Stage
    from sandlock_runtime.result import Result
    from sandlock_runtime.streams import Stream

__all__ = ["PipelineResult", "PipelineRun", "begin", "join"]

_LINK_ENDS_S = 1.0


@record(frozen=True, slots=True)
class PipelineResult:
    """What became of a pipeline: the result of every stage, and what the last one said.

    Attributes:
        stages: the results, gathered ones first, in the order in which they were written down.

    """

    stages: tuple[Result, ...]

    @property
    def success(self) -> bool:
        """Whether every stage succeeded; one that a closed pipe ended (SIGPIPE) did not."""
        return all(result.success for result in self.stages)

    @property
    def last(self) -> Result:
        """The result of the last stage."""
        return self.stages[-1]

    @property
    def exit_code(self) -> int:
        """The last stage's exit code."""
        return self.last.exit_code

    @property
    def stdout(self) -> bytes:
        """What the last stage wrote, where that was captured."""
        return self.last.stdout

    @property
    def stderr(self) -> bytes:
        """What the last stage wrote to stderr; that of the others is in their results."""
        return self.last.stderr

    @property
    def reason(self) -> str:
        """Why the last stage ended."""
        return self.last.reason

    def check(self) -> Self:
        """Return this, or raise `ChildError` of the first stage that did not succeed."""
        for result in self.stages:
            result.check()
        return self


class PipelineRun:
    """One run of a pipeline, to be asked for its result once; `end` may come from any thread."""

    def __init__(
        self, whole: Pipeline, stdout: Stream, timeout_s: float | None, feed: bytes | None, bound: int | None
    ) -> None:
        if bound is not None and bound < 0:
            raise ValueError(f"max_output is a number of bytes, not {bound}")
        if feed is not None and whole.gathered:
            raise ValueError("give either input or gathered ones: a stage that gathers has no other input")
        self._whole = whole
        self._stdout = stdout
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._feed = feed
        self._bound = bound
        self._lives: list[tuple[Stage, Life]] = []
        self._results: dict[int, Result] = {}
        self._failures: list[BaseException] = []
        self._links: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ended = False

    def result(self) -> PipelineResult:
        """Start every stage, pass data, wait for the end."""
        stages = self._whole.everyone()
        if len({id(stage.sandbox) for stage in stages}) < len(stages):
            raise SandboxBusyError("two stages share a sandbox, which runs one program at a time: give each its own")
        if self._timeout_s is not None:
            self._deadline = time.monotonic() + self._timeout_s
        threads: list[threading.Thread] = []
        try:
            self._lay(self._whole, self._stdout, self._feed)
            for number, (stage, life) in enumerate(self._lives):
                threads.append(begin(partial(self._drive, number, stage, life)))
            join(threads)
        except BaseException:
            self.end()
            for stage, life in self._lives[len(threads) :]:
                stage.end(life)
            join(threads)
            raise
        finally:
            for link in self._links:  # each ends with its stages; but a process forked meanwhile may hold their pipes
                link.join(_LINK_ENDS_S)
        if self._failures:
            raise self._failures[0]
        return PipelineResult(tuple(self._results[number] for number in range(len(self._lives))))

    def end(self) -> None:
        """Kill every stage, and start no more."""
        with self._lock:
            self._ended = True
            for _, life in self._lives:
                life.kill()

    def _lay(self, whole: Pipeline, stdout: Stream, feed: bytes | None) -> None:
        """Start the stages of `whole` and of what it gathers, connected by pipes that nobody else holds."""
        inputs: dict[str, int] = {}
        source: Stream = DEVNULL if feed is None else PIPE
        held: list[int] = []
        try:
            for gathered in whole.gathered:
                inputs[gathered.name], sink = self._one_way(held)
                self._lay(gathered, sink, None)
                close_held(held, sink)
            for stage in whole.stages:
                last = stage is whole.stages[-1]
                reader, sink = (-1, -1) if last else self._one_way(held)
                self._start(stage, source, stdout if last else sink, inputs, feed)
                for fd in (*inputs.values(), *((source,) if isinstance(source, int) else ()), sink):
                    close_held(held, fd)
                source, inputs, feed = reader, {}, None
        finally:
            for fd in held:
                os.close(fd)

    def _one_way(self, held: list[int]) -> tuple[int, int]:
        """Return what one stage reads from and another writes to, both in `held`; the way is not theirs to turn."""
        ours: list[int] = []
        try:
            taken, sink = pipe_above(ours)
            reader, given = pipe_above(ours)
            self._links.append(begin(partial(pass_on, taken, given)))
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        held += [reader, sink]
        return reader, sink

    def _start(self, stage: Stage, stdin: Stream, stdout: Stream, inputs: dict[str, int], feed: bytes | None) -> None:
        policy = stage.sandbox.policy
        if inputs:
            told = ",".join(f"{name}={fd}" for name, fd in inputs.items())
            policy = policy.replace(env={**policy.env, VARIABLE: told})
        with self._lock:
            if self._ended:
                raise InterruptedError("the pipeline was ended before all its stages had started")
            life = stage.launch(stage.command, stdin, stdout, PIPE, tuple(inputs.values()), policy=policy)
            self._lives.append((stage, life))
        life.attach(feed or b"", self._bound)

    def _drive(self, number: int, stage: Stage, life: Life) -> None:
        policy = stage.sandbox.policy
        left = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
        bounds = [bound for bound in (policy.timeout, left) if bound is not None]
        try:
            try:
                self._results[number] = life.run(min(bounds) if bounds else None, policy.grace)
            finally:
                stage.end(life)
        except BaseException as error:  # noqa: BLE001  # raised by the caller's own thread
            self._failures.append(error)
            self.end()


def begin(work: Callable[[], None]) -> threading.Thread:
    """Start a thread that does not keep the host alive."""
    thread = threading.Thread(target=work, name="sandlock-pipeline", daemon=True)
    thread.start()
    return thread


def join(threads: Sequence[threading.Thread]) -> None:
    """Wait for all of `threads`."""
    for thread in threads:
        thread.join()
