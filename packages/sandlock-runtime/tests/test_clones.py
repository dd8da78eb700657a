"""`fork` and `reduce`: one initialised template, many clones of it in one sandbox."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import clone_functions as functions
import pytest
from runtime_lab import SYSTEM

from sandlock_runtime import ForkError, Sandbox, SandboxBusyError
from sandlock_runtime.clones import CloneResult

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

pytestmark = [pytest.mark.needs("landlock", level=1)]

WAIT_S = 60


def box(**fields: Any) -> Sandbox:
    return Sandbox(fs_readable=[*SYSTEM, *fields.pop("fs_readable", ())], **fields)


@pytest.mark.usefixtures("leaks")
def test_each_clone_works_on_what_the_template_loaded_once() -> None:
    sandbox = box(init_fn=functions.load, work_fn=functions.tell)
    clones = sandbox.fork(5)
    assert [one.stdout.decode() for one in clones.wait(WAIT_S)] == [f"{n} {n} 2 True True\n" for n in range(5)]
    assert clones.result.success and len(clones) == 5
    assert all(isinstance(one, CloneResult) and one.success for one in clones)
    assert box().reduce(["sort", "-r"], clones).stdout.startswith(b"4 4 2 True")
    assert sandbox.reduce(["head", "-c", "1"], clones).stdout == b"0", "the sandbox is free again"


@pytest.mark.usefixtures("leaks")
def test_output_beyond_a_pipe_is_drained_while_they_run() -> None:
    clones = box(work_fn=functions.much).fork(3, max_output=200_000)
    results = clones.wait(WAIT_S)
    assert [one.stdout for one in results] == [str(n).encode() * 200_000 for n in range(3)]
    assert {one.stdout_dropped for one in results} == {100_000}


def test_a_clone_that_fails_is_told_by_its_number() -> None:
    clones = box(work_fn=functions.fail_some).fork(5)
    results = clones.wait(WAIT_S)
    assert [(one.exit_code, one.signal) for one in results] == [(0, None), (1, None), (-1, 9), (7, None), (0, None)]
    assert b"one fails" in clones.result.stderr
    with pytest.raises(ForkError) as failed:
        box().reduce(["cat"], clones)
    assert failed.value.clones == (1, 2, 3)


def test_a_template_that_cannot_be_initialised_is_told() -> None:
    clones = box(init_fn=functions.broken, work_fn=functions.tell).fork(2)
    with pytest.raises(ForkError, match="cannot load"):
        clones.wait(WAIT_S)


def test_clones_are_confined(tree: Tree) -> None:
    env = {"CANARY": str(tree.canary.path)}
    denied = box(work_fn=functions.read_canary, env=env).fork(2)
    assert [one.exit_code for one in denied.wait(WAIT_S)] == [1, 1]
    assert b"Permission denied" in denied.result.stderr
    granted = box(work_fn=functions.read_canary, env=env, fs_readable=[str(tree.canary.path)]).fork(2)
    assert all(tree.canary.secret.encode() in one.stdout for one in granted.wait(WAIT_S))


def test_the_limits_are_those_of_all_together() -> None:
    clones = box(work_fn=functions.fork_more, max_processes=8).fork(2)
    said = [one.stdout.decode().split() for one in clones.wait(WAIT_S)]
    made = [int(words[1]) for words in said if words]
    assert made and sum(made) <= 5, "the template and two clones are three of the eight"


@pytest.mark.usefixtures("leaks")
def test_the_time_and_the_end_are_the_sandboxes() -> None:
    timed = box(work_fn=functions.sleep, timeout=1.5, grace=0.1)
    started = time.monotonic()
    assert {one.exit_code for one in timed.fork(2).wait(WAIT_S)} == {-1}
    assert time.monotonic() - started < 40
    sandbox = box(work_fn=functions.sleep)
    with sandbox.fork(2) as clones:
        with pytest.raises(SandboxBusyError):
            sandbox.run(["true"])
        with pytest.raises(TimeoutError):
            clones.wait(0.1)
    assert not sandbox.is_running


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ForkError, match="work_fn"):
        box().fork(2)
    for count, bound in ((0, None), (1, -1)):
        with pytest.raises(ValueError, match="not"):
            box(work_fn=functions.tell).fork(count, max_output=bound)
