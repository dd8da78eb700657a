"""`max_cpu`: the share of a whole tree, with loose bounds, and its thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from runtime_lab import PYTHON, box, line_of, state_of, threads_named, wait_until

from sandlock_runtime import DEVNULL, PIPE
from sandlock_runtime.throttle import tree_cpu_s

if TYPE_CHECKING:
    from sandlock_runtime import Result

pytestmark = pytest.mark.usefixtures("leaks")

BURN = "import os, time\nos.fork()\nend = time.monotonic() + {wall}\nwhile time.monotonic() < end: pass\n"


def burn(max_cpu: int | None) -> Result:
    """Two processes that want all they can get for 1.2 s; the parent ends first or last, so both are waited for."""
    code = BURN.format(wall=1.2) + "try: os.wait()\nexcept ChildProcessError: pass"
    return box(**({} if max_cpu is None else {"max_cpu": max_cpu})).run([*PYTHON, code])


def test_a_tree_of_two_processes_stays_near_its_share() -> None:
    free, bound = burn(None), burn(25)
    assert free.success and bound.success
    unbound_share = (free.usage.user_s + free.usage.system_s) / free.usage.wall_s
    share = (bound.usage.user_s + bound.usage.system_s) / bound.usage.wall_s
    assert 0.02 < share < min(0.5, unbound_share)  # on a busy machine the free one gets less too


def test_the_throttle_ends_with_the_program() -> None:
    with box(max_cpu=50).popen(["sleep", "60"], stdout=DEVNULL):
        assert threads_named("sandlock-throttle") == 1
    wait_until(lambda: threads_named("sandlock-throttle") == 0)
    assert box(max_cpu=50).run(["sh", "-c", "exit 3"]).exit_code == 3


def test_a_pause_outlasts_the_throttle() -> None:
    sandbox = box(max_cpu=10)
    with sandbox.popen([*PYTHON, "while True: pass"], stdout=DEVNULL) as process:
        wait_until(lambda: state_of(process.pid) == "T")  # the throttle holds it back
        sandbox.pause()
        for _ in range(60):
            time.sleep(0.01)
            assert state_of(process.pid) == "T"
        sandbox.resume()
        wait_until(lambda: state_of(process.pid) == "R")


def test_the_timeout_reaches_a_tree_that_is_held_back() -> None:
    result = box(max_cpu=5, timeout=0.4, grace=0.3).run([*PYTHON, "while True: pass"])
    assert result.reason == "TIMEOUT"
    assert result.usage.wall_s < 5


def test_cpu_of_children_and_of_those_waited_for_counts() -> None:
    code = "import time, os\nif not os.fork():\n while time.process_time() < 0.3: pass\n os._exit(0)\n"
    sandbox = box()
    with sandbox.popen(
        [*PYTHON, code + "os.wait()\nprint('waited', flush=True)\ntime.sleep(60)"], stdout=PIPE
    ) as process:
        assert line_of(process.stdout) == "waited"
        assert 0.2 < tree_cpu_s(process.pid) < 3
    assert tree_cpu_s(process.pid) == 0.0
