"""`SandboxExecutor`: functions in confined workers, and answers that can do nothing here."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import task_functions as tasks
from runtime_lab import wait_until

from sandlock_policy import PolicyError
from sandlock_runtime.errors import ChildError, TaskError
from sandlock_runtime.executor import SandboxExecutor
from sandlock_runtime.plain import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_testkit.tree import Tree

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.usefixtures("leaks")]

WAIT_S = 60


@pytest.fixture
def executor() -> Iterator[SandboxExecutor]:
    with SandboxExecutor(1) as made:
        yield made


def test_functions_run_in_workers_and_their_results_come_in_order() -> None:
    with SandboxExecutor(2) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert list(executor.map(tasks.square, range(200), timeout=WAIT_S)) == [n * n for n in range(200)]
        pids = set(executor.map(worker_of, range(20), timeout=WAIT_S))
        assert os.getpid() not in pids and 1 <= len(pids) <= 2
        assert executor.submit(sorted, [3, 1, 2], reverse=True).result(WAIT_S) == [3, 2, 1]
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(tasks.square, 2)


def worker_of(_: int) -> int:
    return os.getpid()


def test_a_worker_is_confined(tree: Tree) -> None:
    with SandboxExecutor(1) as executor:
        with pytest.raises(PermissionError) as refused:
            executor.submit(tasks.read, str(tree.canary.path)).result(WAIT_S)
        assert refused.value.filename == str(tree.canary.path)
        assert "in the sandbox" in refused.value.__notes__[0]
        assert isinstance(refused.value.__cause__, TaskError)
    with SandboxExecutor(1, fs_readable=["/usr", "-/lib", "-/lib64", str(tree.canary.path)]) as executor:
        assert tree.canary.secret in executor.submit(tasks.read, str(tree.canary.path)).result(WAIT_S)


def test_a_pickle_in_an_answer_is_not_unpickled_unless_the_caller_asks(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    with SandboxExecutor(1, results="pickle") as executor:
        executor.submit(tasks.bomb, mark).result(WAIT_S)
    assert os.path.isdir(mark), "asked for, the attack works"
    os.rmdir(mark)
    with SandboxExecutor(1) as executor:
        with pytest.raises(TaskError, match="Bomb is no plain data"):
            executor.submit(tasks.bomb, mark).result(WAIT_S)
        with pytest.raises(TaskError, match="no answer: status"):
            executor.submit(tasks.forge, tasks.pickled_bomb(mark)).result(WAIT_S)
        assert executor.submit(tasks.square, 3).result(WAIT_S) == 9
    assert not os.path.exists(mark)


def test_an_answer_that_is_none_ends_its_worker_and_no_other_task(executor: SandboxExecutor) -> None:
    unexceptional = b"xt" + (5).to_bytes(8, "little") + b"NNNNN"
    for content in (b"r", b"", b"rZ", b"\x80\x04.", b"x", b"xN", unexceptional, b"r" + b"l" * 500):
        with pytest.raises(TaskError, match=r"no answer|max_result"):
            executor.submit(tasks.forge, content).result(WAIT_S)
        assert executor.submit(tasks.square, 4).result(WAIT_S) == 16


def test_an_answer_has_a_bound() -> None:
    with SandboxExecutor(1, max_result=10_000) as executor:
        assert executor.submit(bytes, 9000).result(WAIT_S) == bytes(9000)
        with pytest.raises(TaskError, match="max_result is 10000"):
            executor.submit(bytes, 10_000).result(WAIT_S)
        with pytest.raises(TaskError, match="max_result"):
            executor.submit(tasks.forge, b"", 1 << 62).result(WAIT_S)


def test_an_answer_before_the_task_is_refused(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    with SandboxExecutor(1, fs_writable=["/dev/null", str(tmp_path)]) as executor:
        assert executor.submit(tasks.forge, b"rT", mark=mark).result(WAIT_S) == "later"
        wait_until(lambda: os.path.isdir(mark), 30)
        with pytest.raises(TaskError, match="before the task"):
            executor.submit(tasks.square, 2).result(WAIT_S)
        assert executor.submit(tasks.square, 2).result(WAIT_S) == 4


def test_a_worker_that_dies_takes_its_task_and_no_other(executor: SandboxExecutor) -> None:
    with pytest.raises(ChildError) as ended:
        executor.submit(tasks.leave, 7).result(WAIT_S)
    assert ended.value.result.exit_code == 7
    with pytest.raises(ChildError):
        executor.submit(tasks.close_all).result(WAIT_S)
    assert executor.submit(tasks.square, 5).result(WAIT_S) == 25


def test_exceptions_are_the_builtin_ones_or_tell_what_they_were(executor: SandboxExecutor) -> None:
    for error in (ValueError("v", 1), KeyError("k"), ZeroDivisionError("z"), TimeoutError()):
        with pytest.raises(type(error)) as raised:
            executor.submit(tasks.raise_it, error).result(WAIT_S)
        assert raised.value.args == error.args
    with pytest.raises(TaskError) as own:
        executor.submit(tasks.raise_own).result(WAIT_S)
    assert own.value.kind == "task_functions.OwnError"
    assert "raise_own" in own.value.traceback
    assert str(pickle.loads(pickle.dumps(own.value))) == str(own.value)  # noqa: S301 - our own
    for special in (SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit()):
        with pytest.raises(TaskError):
            executor.submit(tasks.raise_it, special).result(WAIT_S)


def test_an_exception_costs_whoever_prints_it_little(executor: SandboxExecutor) -> None:
    """The standard library draws carets under the columns that a SyntaxError names, however many they are."""
    good = SyntaxError("m", ("f", 1, 2, "text", 1, 4))
    with pytest.raises(SyntaxError) as raised:
        executor.submit(tasks.raise_it, good).result(WAIT_S)
    assert raised.value.args == good.args
    shown = ("builtins", "SyntaxError", ("m", ("f", 1, 1, "text", 1, 1 << 40)), "t", "trace")
    before = ("builtins", "SyntaxError", ("m", ("f", 1, -1 << 40, "text", 1, 1)), "t", "trace")
    traced = ("builtins", "ValueError", None, "t", "line\n" * (1 << 18))
    with SandboxExecutor(1, max_tasks_per_child=1) as one_each:
        for described in (shown, before, traced):
            with pytest.raises(TaskError) as refused:
                one_each.submit(tasks.forge, b"x" + encode(described)).result(WAIT_S)
            assert refused.value.kind == f"builtins.{described[1]}"
            assert len(refused.value.traceback) <= 1 << 16


def test_the_timeout_is_each_tasks() -> None:
    with SandboxExecutor(1, timeout=1) as executor:
        for _ in range(2):
            assert executor.submit(tasks.sleep, 0.01).result(WAIT_S) == "slept"
        with pytest.raises(TimeoutError, match="worker was killed"):
            executor.submit(tasks.sleep, 1000).result(WAIT_S)
        assert executor.submit(tasks.square, 6).result(WAIT_S) == 36


def test_arguments_of_any_size_and_results_too(executor: SandboxExecutor) -> None:
    data = os.urandom(3 << 20)
    assert executor.submit(bytes, data).result(WAIT_S) == data
    assert executor.submit(tasks.shout).result(WAIT_S) == "out\n"


def test_a_worker_is_replaced_after_its_tasks() -> None:
    with SandboxExecutor(1) as executor:
        assert [executor.submit(tasks.remember, 0).result(WAIT_S) for _ in range(3)] == [1, 2, 3]
    with SandboxExecutor(1, max_tasks_per_child=1) as executor:
        assert [executor.submit(tasks.remember, 0).result(WAIT_S) for _ in range(3)] == [1, 1, 1]
    with SandboxExecutor(1, initializer=tasks.remember, initargs=(5,), max_tasks_per_child=2) as executor:
        assert [executor.submit(tasks.remember, 0).result(WAIT_S) for _ in range(3)] == [2, 3, 2]


def test_what_cannot_be_pickled_is_the_futures_error(
    executor: SandboxExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)  # as where it is not installed
    with pytest.raises((pickle.PicklingError, AttributeError)):
        executor.submit(lambda: 1).result(WAIT_S)
    assert executor.submit(tasks.square, 7).result(WAIT_S) == 49


def test_a_lambda_is_pickled_where_cloudpickle_is_installed(executor: SandboxExecutor) -> None:
    number = 6
    assert executor.submit(lambda: number * 7).result(WAIT_S) == 42


def test_bad_arguments_are_told() -> None:
    for named in ({"max_workers": 0}, {"max_result": 0}, {"max_tasks_per_child": 0}, {"results": "json"}):
        arguments: dict[str, Any] = named
        with pytest.raises(ValueError, match=next(iter(named))):
            SandboxExecutor(**arguments)
    with pytest.raises(PolicyError):
        SandboxExecutor(1, max_memory="much")


def test_killing_ends_what_runs_and_cancels_the_rest() -> None:
    executor = SandboxExecutor(1)
    running = executor.submit(tasks.sleep, 1000)
    waiting = executor.submit(tasks.square, 2)
    assert executor.submit(tasks.square, 3) is not None
    wait_until(running.running)
    executor.kill_workers()
    with pytest.raises(ChildError):
        running.result(WAIT_S)
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.result(WAIT_S)
    executor.shutdown()


def test_asyncio_can_use_it(executor: SandboxExecutor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, tasks.square, n) for n in range(5)))

    assert asyncio.run(asyncio.wait_for(main(), WAIT_S)) == [0, 1, 4, 9, 16]


def test_a_script_finds_its_own_functions_and_ends_without_shutdown(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path[:] = {sys.path!r}
        from sandlock_runtime.executor import SandboxExecutor

        def cube(number):
            return number ** 3

        if __name__ == "__main__":
            executor = SandboxExecutor(1)
            print(executor.submit(cube, 3).result({WAIT_S}))
            executor.submit(print, "printed by the last task", flush=True)
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["27", "printed by the last task"], done.stderr
