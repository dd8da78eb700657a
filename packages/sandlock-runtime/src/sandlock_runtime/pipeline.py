"""Pipelines: programs that pass data on, each in a sandbox of its own.

A stage's output is the next one's input, through a pipe that only these two have. Stages that are gathered come under
names to whoever takes them all. All of them run at once, so what they pass on has no bound but their own speed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sandlock_runtime.pipeline_run import PipelineRun
from sandlock_runtime.streams import PIPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_runtime.life import Life
    from sandlock_runtime.pipeline_run import PipelineResult
    from sandlock_runtime.prepare import Command
    from sandlock_runtime.sandbox import Sandbox
    from sandlock_runtime.streams import Stream

__all__ = ["Gather", "Pipeline", "Stage"]

_MAX_OUTPUT = 256 << 20


class _Runs(ABC):
    """What stages and pipelines can do alike."""

    @abstractmethod
    def pipeline(self) -> Pipeline:
        """Return this as a pipeline."""

    def as_(self, name: str) -> Pipeline:
        """Give the output a name, under which whoever gathers it reads it: `sandlock.inputs[name]`."""
        if not (name.isascii() and name.isidentifier()):
            raise ValueError(f"the name of an input is an ASCII identifier, not {name!r}")
        whole = self.pipeline()
        return Pipeline(whole.stages, whole.gathered, name)

    def __or__(self, other: Stage) -> Pipeline:
        """Pass the output on to `other`."""
        if not isinstance(other, Stage):
            return NotImplemented
        whole = self.pipeline()
        return Pipeline((*whole.stages, other), whole.gathered)

    def __add__(self, other: _Runs) -> Gather:
        """Gather this and `other`, both of which have names, for one that reads them."""
        if not isinstance(other, _Runs):
            return NotImplemented
        return Gather((self.pipeline(), other.pipeline()))

    def run(
        self,
        stdout: Stream = PIPE,
        timeout: float | None = None,
        *,
        input: bytes | None = None,  # noqa: A002  # as in Sandbox.run
        max_output: int | None = _MAX_OUTPUT,
    ) -> PipelineResult:
        """Run all stages at once, wait until nothing of them is left, and return what became of each.

        Arguments:
            stdout: where the last stage writes: a file, an fd, DEVNULL; None captures, as PIPE does.
            timeout: seconds for the whole; a stage's own policy may give it less.
            input: bytes for the first stage's standard input.
            max_output: bytes to keep of each captured stream; the rest is counted and dropped.

        Raises:
            PolicyError, CommandNotFoundError, CommandNotRunnableError, ConfinementError: a stage could not be started;
                those that had been are ended.
            SandboxBusyError: two stages share a sandbox, or one of them lives already.

        """
        return PipelineRun(self.pipeline(), PIPE if stdout is None else stdout, timeout, input, max_output).result()

    async def arun(
        self,
        stdout: Stream = PIPE,
        timeout: float | None = None,  # noqa: ASYNC109  # as in run
        *,
        input: bytes | None = None,  # noqa: A002  # as in run
        max_output: int | None = _MAX_OUTPUT,
    ) -> PipelineResult:
        """As `run`, for asyncio; a cancelled wait ends every stage."""
        import asyncio  # lazy: for those who use it

        work = PipelineRun(self.pipeline(), PIPE if stdout is None else stdout, timeout, input, max_output)
        waiting = asyncio.ensure_future(asyncio.to_thread(work.result))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            work.end()
            await asyncio.wait([waiting])
            raise


class Stage(_Runs):
    """One command in one sandbox, as part of a pipeline; `Sandbox.cmd` makes it.

    Attributes:
        sandbox: where it runs.
        command: program and arguments.

    """

    def __init__(
        self, sandbox: Sandbox, command: Command, launch: Callable[..., Life], end: Callable[[Life], None]
    ) -> None:
        self.sandbox = sandbox
        self.command = command
        self.launch = launch
        self.end = end

    def pipeline(self) -> Pipeline:
        """Return a pipeline of this stage alone."""
        return Pipeline((self,))


class Pipeline(_Runs):
    """Stages one after the other, the first of which may read what was gathered.

    Attributes:
        stages: in the order in which data passes.
        gathered: what the first one reads by name.
        name: the name of the output, or "".

    """

    def __init__(self, stages: tuple[Stage, ...], gathered: tuple[Pipeline, ...] = (), name: str = "") -> None:
        self.stages = stages
        self.gathered = gathered
        self.name = name

    def pipeline(self) -> Pipeline:
        """Return this."""
        return self

    def everyone(self) -> list[Stage]:
        """Return all stages, gathered ones first."""
        return [*(stage for source in self.gathered for stage in source.everyone()), *self.stages]


class Gather:
    """Named outputs for one reader: `a.as_("x") + b.as_("y") | reader`."""

    def __init__(self, sources: tuple[Pipeline, ...]) -> None:
        names = [source.name for source in sources]
        if not all(names):
            raise ValueError('what is gathered needs names: a.cmd(...).as_("x") + b.cmd(...).as_("y")')
        if len(set(names)) < len(names):
            raise ValueError(f"what is gathered needs different names, not {names}")
        self.sources = sources

    def __add__(self, other: _Runs) -> Gather:
        """Gather one more."""
        return Gather((*self.sources, other.pipeline())) if isinstance(other, _Runs) else NotImplemented

    def __or__(self, other: Stage) -> Pipeline:
        """Let `other` read them all."""
        return Pipeline((other,), self.sources) if isinstance(other, Stage) else NotImplemented
