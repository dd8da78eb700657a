"""Many programs beside each other, each in a sandbox of its own."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from sandlock_runtime.pipeline_run import PipelineRun, begin, join
from sandlock_runtime.streams import PIPE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock_runtime.pipeline import Stage
    from sandlock_runtime.result import Result

__all__ = ["run_many"]

_MAX_OUTPUT = 256 << 20


def run_many(
    stages: Iterable[Stage],
    timeout: float | None = None,
    *,
    at_once: int | None = None,
    max_output: int | None = _MAX_OUTPUT,
) -> list[Result]:
    """Run stages beside each other, and return their results in the order given.

    Arguments:
        stages: what to run, each in a sandbox of its own.
        timeout: seconds for each of them from its own start.
        at_once: how many run at the same time at most; as many as there are processors when None.
        max_output: bytes to keep of each stream of each; the rest is counted and dropped.

    Raises:
        What the first one that could not be run raises; the others are ended.

    """
    limit = at_once if at_once is not None else len(os.sched_getaffinity(0))
    if limit < 1:
        raise ValueError(f"at_once is a number from 1 on, not {at_once}")
    runs = [PipelineRun(stage.pipeline(), PIPE, timeout, None, max_output) for stage in stages]
    waiting = iter(enumerate(runs))
    results: dict[int, Result] = {}
    failures: list[BaseException] = []
    taking = threading.Lock()

    def end() -> None:
        for run in runs:
            run.end()

    def serve() -> None:
        while not failures:
            with taking:
                index, run = next(waiting, (-1, None))
            if run is None:
                return
            try:
                results[index] = run.result().last
            except BaseException as error:  # noqa: BLE001  # raised by the caller's own thread, below
                failures.append(error)
                end()

    threads = [begin(serve) for _ in range(min(limit, len(runs)))]
    try:
        join(threads)
    except BaseException as error:
        failures.append(error)
        end()
        join(threads)
        raise
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(runs))]
