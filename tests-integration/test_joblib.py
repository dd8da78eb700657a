"""joblib's jobs in confined workers, by the backend that the guide to Python shows. Nothing of ours needs joblib."""

from __future__ import annotations

import os
from typing import Any

import joblib
import pytest

from sandlock import SandboxExecutor, TaskError

pytestmark = pytest.mark.needs("landlock", level=1)


def test_jobs_are_confined() -> None:
    def submit(backend: Any, job: Any, callback: Any = None) -> Any:
        future = backend.executor.submit(job)
        future.add_done_callback(callback)
        return future

    def remember(backend: Any, executor: SandboxExecutor) -> None:
        joblib.parallel.ParallelBackendBase.__init__(backend)
        backend.executor = executor

    methods = {
        "supports_retrieve_callback": True,
        "__init__": remember,
        "effective_n_jobs": lambda _, jobs: jobs,
        "submit": submit,
        "apply_async": submit,  # its name before joblib 1.5
        "retrieve_result_callback": lambda _, future: future.result(),
    }
    joblib.register_parallel_backend("sandlock", type("Confined", (joblib.parallel.ParallelBackendBase,), methods))
    with SandboxExecutor(2) as executor, joblib.parallel_config(backend="sandlock", executor=executor):
        run, job = joblib.Parallel(n_jobs=2), joblib.delayed
        assert run(job(pow)(number, 2) for number in range(10)) == [number**2 for number in range(10)]
        assert os.getpid() not in run(job(os.getpid)() for _ in range(2))
        with pytest.raises((TaskError, PermissionError)):
            run(job(os.listdir)("/root") for _ in range(2))
