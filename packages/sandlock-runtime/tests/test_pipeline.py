"""Pipelines, gathers, and many programs beside each other."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from typing import TYPE_CHECKING

import pytest
from runtime_lab import PYTHON, box, wait_until

from sandlock_runtime import CommandNotFoundError, SandboxBusyError, pipeline
from sandlock_runtime.many import run_many
from sandlock_runtime.pipeline_run import PipelineResult
from sandlock_runtime.result import Result

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.usefixtures("leaks")]

SOURCES = os.path.dirname(os.path.dirname(os.path.abspath(pipeline.__file__)))
READER = f"import sys; sys.path.append({SOURCES!r}); from sandlock_runtime.inputs import inputs; "


def test_data_of_any_size_passes_through_every_stage() -> None:
    data = os.urandom(3 << 20)
    result = (box().cmd(["cat"]) | box().cmd(["cat"]) | box().cmd(["sh", "-c", "cat; echo end >&2"])).run(input=data)
    assert result.success
    assert result.stdout == data
    assert result.stderr == b"end\n"
    assert [stage.exit_code for stage in result.stages] == [0, 0, 0]
    assert result.stages[0].stdout == b""
    copy = pickle.loads(pickle.dumps(result))  # noqa: S301 - our own
    assert copy == result and copy.check() is copy


def test_each_stage_has_its_own_policy(tree: Tree) -> None:
    path = str(tree.read / "data.txt")
    reader = box(fs_readable=[str(tree.read)])
    result = (reader.cmd(["cat", path]) | box().cmd(["sh", "-c", f"cat; cat {path}"])).run()
    assert result.stdout.decode() == tree.readable, "the second stage got it from the first, and not from the disk"
    assert not result.success
    assert result.stages[0].success
    assert b"Permission denied" in result.stderr
    with pytest.raises(RuntimeError, match="exit code 1"):
        result.check()
    both = reader.cmd(["cat", path]) | box(fs_readable=[str(tree.read)]).cmd(["sh", "-c", f"cat; cat {path}"])
    assert both.run().stdout.decode() == 2 * tree.readable


def test_a_reader_that_has_enough_ends_the_writer() -> None:
    result = (box().cmd(["yes"]) | box().cmd(["head", "-n", "2"])).run(timeout=30)
    assert result.stdout == b"y\ny\n"
    assert (result.stages[0].signal, result.exit_code, result.success) == (13, 0, False)


UP = """
import os, select, sys
number = os.environ["SANDLOCK_INPUTS"].partition("=")[2].partition(",")[0] if sys.argv[1:] else "0"
os.write(os.open("/proc/self/fd/" + number, os.O_WRONLY), b"upstream")  # opens whichever end one likes
select.select([], [], [], 2)
"""
DOWN = """
import os, select, sys
back = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
ready = select.select([back], [], [], float(sys.argv[1]))[0]
sys.stderr.write(repr(os.read(back, 99) if ready else None))
"""


def test_a_later_stage_tells_an_earlier_one_nothing() -> None:
    """Stages that would like to talk the other way: what is written into a standard input stays there."""
    reader, writer = os.pipe()  # the control: on one pipe it works
    try:
        with open(f"/proc/self/fd/{reader}", "wb") as up, open(f"/proc/self/fd/{writer}", "rb") as down:
            up.write(b"upstream")
            up.flush()
            assert down.read(8) == b"upstream"
    finally:
        os.close(reader)
        os.close(writer)
    result = (box().cmd([*PYTHON, DOWN, "1.5"]) | box().cmd([*PYTHON, UP])).run(timeout=60)
    assert [stage.stderr for stage in result.stages] == [b"None", b""]
    gathering = (
        box().cmd([*PYTHON, DOWN, "1.5"]).as_("a") + box().cmd(["true"]).as_("b")
        | box().cmd([*PYTHON, UP, "gathered"])
    )  # fmt: skip
    assert [stage.stderr for stage in gathering.run(timeout=60).stages] == [b"None", b"", b""]


def test_gathered_outputs_are_read_by_name() -> None:
    big = 300_000  # more than a pipe holds: both write at once, and are read one after the other
    first = box().cmd(["sh", "-c", f"yes a | head -c {big}"]).as_("letters")
    second = (box().cmd(["echo", "héllo"]) | box().cmd(["tr", "l", "L"])).as_("words")
    consumer = box(fs_readable=[SOURCES]).cmd(
        [*PYTHON, READER + "print(sorted(inputs), inputs['words'].strip(), len(inputs['letters']), len(inputs))"]
    )
    result = (first + second | consumer).run(timeout=60)
    assert result.success, [stage.stderr for stage in result.stages]
    assert result.stdout.decode().split() == ["['letters',", "'words']", "héLLo", str(big), "2"]
    assert len(result.stages) == 4


def test_a_gathering_program_may_be_in_any_language() -> None:
    sources = (
        box().cmd(["echo", "one"]).as_("a") + box().cmd(["echo", "two"]).as_("b") + box().cmd(["echo", "3"]).as_("c")
    )
    shell = (
        'for pair in $(echo $SANDLOCK_INPUTS | tr , " "); do printf "%s " "${pair%%=*}"; eval "cat <&${pair##*=}"; done'
    )
    result = (sources | box().cmd(["bash", "-c", shell]) | box().cmd(["cat"])).run()
    assert result.stdout == b"a one\nb two\nc 3\n", result.stages[3].stderr


def test_names_of_inputs_are_names() -> None:
    one, other = box().cmd(["echo"]), box().cmd(["echo"])
    for name in ("", "a=b", "a,b", "1a", "ä"):
        with pytest.raises(ValueError, match="identifier"):
            one.as_(name)
    with pytest.raises(ValueError, match="different names"):
        one.as_("x") + other.as_("x")
    with pytest.raises(ValueError, match="needs names"):
        one + other.as_("x")
    with pytest.raises(ValueError, match="no other input"):
        (one.as_("x") + other.as_("y") | box().cmd(["cat"])).run(input=b"data")


def test_two_stages_cannot_share_a_sandbox() -> None:
    shared = box()
    with pytest.raises(SandboxBusyError, match="give each its own"):
        (shared.cmd(["echo"]) | shared.cmd(["cat"])).run()
    assert shared.run(["true"]).success


def test_a_stage_that_cannot_be_started_ends_the_others() -> None:
    first, last = box(), box()
    with pytest.raises(CommandNotFoundError):
        (first.cmd(["sleep", "1000"]) | last.cmd(["no-such-program"])).run()
    assert not first.is_running and not last.is_running
    assert first.run(["true"]).success


def test_the_time_is_the_whole_pipelines() -> None:
    started = time.monotonic()
    slow = box(grace=0.1)
    result = (slow.cmd(["sleep", "1000"]) | box(grace=0.1).cmd(["cat"])).run(timeout=0.3)
    assert time.monotonic() - started < 30
    assert result.stages[0].reason == "TIMEOUT"
    own = (box(grace=0.1, timeout=0.3).cmd(["sleep", "1000"]) | box().cmd(["cat"])).run(timeout=60)
    assert [stage.reason for stage in own.stages] == ["TIMEOUT", "EXITED"]


def test_output_goes_to_a_file_too(tmp_path: object) -> None:
    with open(f"{tmp_path}/out", "wb") as file:
        result = (box().cmd(["echo", "text"]) | box().cmd(["cat"])).run(stdout=file)
    assert result.stdout == b""
    with open(f"{tmp_path}/out", "rb") as file:
        assert file.read() == b"text\n"


def test_the_output_of_every_stage_is_bounded() -> None:
    result = (
        box().cmd(["sh", "-c", "yes | head -c 100000 >&2"]) | box().cmd(["sh", "-c", "yes | head -c 100000"])
    ).run(max_output=10)
    assert len(result.stages[0].stderr) == len(result.stdout) == 10
    assert result.stages[0].stderr_dropped == result.last.stdout_dropped == 99_990
    with pytest.raises(ValueError, match="max_output"):
        box().cmd(["echo"]).run(max_output=-1)


def test_a_cancelled_pipeline_ends_every_stage() -> None:
    one, other = box(), box()

    async def main() -> None:
        task = asyncio.ensure_future((one.cmd(["sleep", "1000"]) | other.cmd(["cat"])).arun())
        await asyncio.to_thread(wait_until, lambda: one.is_running and other.is_running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 60))
    wait_until(lambda: not one.is_running and not other.is_running)
    result = asyncio.run((box().cmd(["echo", "a"]) | box().cmd(["cat"])).arun())
    assert isinstance(result, PipelineResult)
    assert result.stdout == b"a\n"


def test_many_run_beside_each_other_in_order() -> None:
    results = run_many([box().cmd(["echo", str(number)]) for number in range(12)], at_once=4)
    assert [result.stdout for result in results] == [b"%d\n" % number for number in range(12)]
    assert all(isinstance(result, Result) for result in results)
    assert run_many([]) == []
    with pytest.raises(ValueError, match="at_once"):
        run_many([], at_once=0)
    failed = run_many([box().cmd(["false"]), box(grace=0.1).cmd(["sleep", "1000"])], timeout=0.5)
    assert [result.reason for result in failed] == ["EXITED", "TIMEOUT"]


def test_the_first_of_many_that_cannot_be_run_ends_the_others() -> None:
    slow = box()
    with pytest.raises(CommandNotFoundError):
        run_many([slow.cmd(["sleep", "1000"]), box().cmd(["no-such-program"]), box().cmd(["true"])], at_once=2)
    assert not slow.is_running
