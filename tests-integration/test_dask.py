"""Dask's tasks in confined workers."""

from __future__ import annotations

import os

import distributed
import pytest

from sandlock import SandboxExecutor, TaskError

pytestmark = pytest.mark.needs("landlock", level=1)


def test_tasks_of_a_local_cluster_are_confined() -> None:
    executor = SandboxExecutor(2)
    with (
        executor,
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, executor=executor
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.gather(client.map(lambda number: number * number, range(10))) == [n * n for n in range(10)]
        assert client.submit(os.getpid).result(60) != os.getpid()
        assert client.submit(os.listdir, "/usr").result(60)
        with pytest.raises((TaskError, PermissionError)):
            client.submit(os.listdir, "/root").result(60)
