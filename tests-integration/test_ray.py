"""Ray's actors and tasks with confined workers, as the guide to Python shows. Ray is too large for CI: where it is."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from sandlock import SandboxExecutor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.needs("landlock", level=1),
    pytest.mark.needs("module:ray"),
    pytest.mark.needs("module:cloudpickle"),
    pytest.mark.timeout(180),
]


class Confined:
    """Runs functions in confined processes."""

    def __init__(self, workers: int) -> None:
        self.executor = SandboxExecutor(workers, max_memory="512M")

    def run(self, function: Callable[..., Any], *args: object) -> object:
        return self.executor.submit(function, *args).result()


def in_a_task(function: Callable[..., Any], *args: object) -> object:
    with SandboxExecutor(1) as executor:
        return executor.submit(function, *args).result()


def test_actors_and_tasks_are_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a token there
    ray: Any = import_module("ray")
    # Unix sockets have short names, so not below tmp_path.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        actor, task = ray.remote(Confined).remote(2), ray.remote(in_a_task)
        assert ray.get([actor.run.remote(pow, number, 2) for number in range(5)]) == [0, 1, 4, 9, 16]
        assert ray.get(task.remote(lambda number: number + 1, 1)) == 2
        assert ray.get(actor.run.remote(os.listdir, "/usr"))  # and only what is granted:
        with pytest.raises(PermissionError):
            ray.get(actor.run.remote(os.listdir, "/root"))
        with pytest.raises(PermissionError):
            ray.get(task.remote(os.listdir, "/root"))
        assert ray.get(actor.run.remote(os.getpid)) != os.getpid()
    finally:
        ray.shutdown()
