"""How a run ended: reason, signal, exit code, usage."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from runtime_lab import PYTHON, box, is_alive, line_of, state_of, wait_until

from sandlock_runtime import DEVNULL, PIPE, Reason
from sandlock_sys import proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandlock_runtime import Process, Result, Usage

pytestmark = pytest.mark.usefixtures("leaks")


def ending(result: Result) -> tuple[str, int, int | None, bool]:
    return result.reason, result.exit_code, result.signal, result.success


@pytest.mark.parametrize("code", [0, 1, 126, 127, 128, 137, 255])
def test_an_exit_code_comes_back_as_it_is(code: int) -> None:
    assert ending(box().run(["sh", "-c", f"exit {code}"])) == (Reason.EXITED, code, None, code == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGRTMAX])
def test_a_signal_comes_back_as_a_signal(number: int) -> None:
    assert ending(box().run(["sh", "-c", f"kill -{int(number)} $$"])) == (Reason.SIGNALED, -1, number, False)


@pytest.mark.needs("x86_64")
@pytest.mark.needs("compiler")
def test_a_foreign_system_call_is_denied(compile_c: Callable[..., Path]) -> None:
    body = "return syscall(39 + (n > 1 ? 0x40000000 : 0)) < 0;"  # getpid, and the same by the x32 interface
    program = compile_c(f"#include <unistd.h>\nint main(int n, char **v) {{ {body} }}")
    sandbox = box(fs_readable=[str(program)])
    assert sandbox.run([program]).success
    assert ending(sandbox.run([program, "x32"])) == (Reason.DENIED, -1, signal.SIGSYS, False)


def test_a_kill_from_here_is_told_apart_from_a_signal() -> None:
    sandbox = box()
    sandbox.spawn(["sleep", "60"])
    sandbox.kill()
    assert ending(sandbox.wait()) == (Reason.KILLED, -1, signal.SIGKILL, False)


def test_a_kill_after_the_end_changes_nothing() -> None:
    sandbox = box()
    process = sandbox.popen(["sh", "-c", "exit 3"])
    wait_until(lambda: not sandbox.is_running)
    sandbox.kill()
    assert ending(process.wait(10)) == (Reason.EXITED, 3, None, False)


@pytest.fixture
def at_its_end(tmp_path: Path) -> Iterator[tuple[Process, Path]]:
    """A program that has written into its branch and ended with success, which its guard has not seen yet."""
    folder = tmp_path / "folder"
    folder.mkdir()
    sandbox = box(workdir=str(folder), cwd=str(folder), fs_storage=str(tmp_path / "storage"))
    command = ["sh", "-c", "echo started; read go; echo new > file"]
    with sandbox.popen(command, stdin=PIPE, stdout=PIPE) as process:
        assert line_of(process.stdout) == "started"
        guard = proc.read_stat(process.pid).ppid  # the program itself sees 0 in a pid namespace
        os.kill(guard, signal.SIGSTOP)
        wait_until(lambda: state_of(guard) == "T")
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_until(lambda: state_of(process.pid) == "Z")
        yield process, folder
    assert not is_alive(guard)


def test_a_kill_at_the_very_end_is_a_kill_and_commits_nothing(at_its_end: tuple[Process, Path]) -> None:
    process, folder = at_its_end
    process.kill()
    result = process.wait(10)
    assert (result.reason, result.success, result.exit_code) == (Reason.KILLED, False, 0)
    assert not os.listdir(folder)


def test_the_end_of_the_block_leaves_an_end_as_it_was(at_its_end: tuple[Process, Path]) -> None:
    process, folder = at_its_end
    process.close()
    assert ending(process.wait(10)) == (Reason.EXITED, 0, None, True)
    assert os.listdir(folder) == ["file"]


def test_a_timeout_is_no_success_even_if_the_program_obeys_it() -> None:
    code = "trap 'echo bye; exit 0' TERM; sleep 60 & wait"
    result = box(grace=20).run(["sh", "-c", code], timeout=0.2)
    assert ending(result) == (Reason.TIMEOUT, 0, None, False)
    assert result.stdout == b"bye\n" and result.usage.wall_s < 10


def test_who_ignores_sigterm_is_killed_after_the_grace() -> None:
    result = box(grace=0.4).run(["sh", "-c", "trap '' TERM; echo in; while :; do sleep 0.05; done"], timeout=0.2)
    assert ending(result) == (Reason.TIMEOUT, -1, signal.SIGKILL, False)
    assert 0.6 <= result.usage.wall_s < 10 and result.stdout == b"in\n"


def test_without_grace_the_timeout_kills_at_once() -> None:
    result = box(grace=0).run([*PYTHON, "import signal, time; signal.signal(15, print); time.sleep(60)"], timeout=0.3)
    assert ending(result) == (Reason.TIMEOUT, -1, signal.SIGKILL, False)
    assert result.stdout == b""


def test_daemons_get_the_sigterm_of_a_timeout_too() -> None:
    daemon = "trap 'echo daemon heard; exit' TERM; while :; do sleep 0.02; done"
    result = box(grace=20).run(["sh", "-c", f"setsid sh -c \"{daemon}\" & trap 'wait; exit 0' TERM; wait"], timeout=0.3)
    assert (result.reason, result.stdout) == (Reason.TIMEOUT, b"daemon heard\n")


def test_a_stopped_program_hears_the_timeout() -> None:
    result = box(grace=20).run(["sh", "-c", "kill -STOP $$; sleep 60"], timeout=0.3)
    assert ending(result) == (Reason.TIMEOUT, -1, signal.SIGTERM, False)


def test_the_timeout_of_the_policy_is_taken_and_the_argument_wins() -> None:
    sandbox = box(timeout=0.2, grace=0)
    assert sandbox.run(["sleep", "60"]).reason == Reason.TIMEOUT
    assert sandbox.run(["sleep", "0.4"], timeout=30).reason == Reason.EXITED


def test_the_end_of_the_program_is_the_end_of_its_daemons() -> None:
    reader, writer = os.pipe()
    code = "import os, time\nif os.fork() == 0:\n  os.setsid()\n"
    code += f"  os.write({writer}, b'there')\n  time.sleep(60)\nos.write(1, os.read({reader}, 5))"
    result = box().run([*PYTHON, code], pass_fds=[reader, writer])
    os.close(writer)
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b"", "whoever could write has ended"  # else BlockingIOError
    os.close(reader)
    assert ending(result) == (Reason.EXITED, 0, None, True)
    assert result.stdout == b"there" and result.usage.wall_s < 10


def test_a_killed_guard_is_told() -> None:
    sandbox = box()
    with sandbox.popen(["sleep", "60"]) as process:
        guard = proc.read_stat(process.pid).ppid
        os.kill(guard, signal.SIGKILL)
        result = process.wait(10)
    assert ending(result) == (Reason.SUPERVISOR, -1, None, False)
    assert "guard" in result.error
    wait_until(lambda: not is_alive(process.pid))  # it has the kernel's death signal, which nobody waits for
    assert sandbox.run(["true"]).success


COST = """
import pickle, sys
from runtime_lab import PYTHON, box
ballast = b"x" * (int(sys.argv[1]) << 20)
code = "import time\\nx = bytearray(96 << 20)\\nwhile time.process_time() < 0.3: pass\\ntime.sleep(0.2)"
usage = box().run([*PYTHON, code]).usage
peak = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.stdout.buffer.write(pickle.dumps((usage, peak)))
"""


def cost(ballast_mib: int = 0) -> tuple[Usage, int]:
    """What a program of 100 MiB costs, and the peak of its host: a new one, for the peak of this one says no more."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])}
    command = [sys.executable, "-c", COST, str(ballast_mib)]
    answer = subprocess.run(command, env=env, capture_output=True, check=True, timeout=60).stdout
    usage, peak = pickle.loads(answer)  # noqa: S301 - pickled by the lines above
    return usage, peak


def test_usage_counts_what_the_run_cost() -> None:
    usage, host_peak = cost()
    assert 0.4 < usage.wall_s < 20
    assert 0.25 < usage.user_s + usage.system_s < usage.wall_s
    assert host_peak < 96 << 20, "or the next line is about another case"
    assert usage.peak_bytes is not None and 96 << 20 < usage.peak_bytes < 400 << 20
    assert usage.notifications == 0


def test_no_peak_is_told_where_the_host_had_a_higher_one() -> None:
    usage, host_peak = cost(ballast_mib=200)
    assert host_peak > 200 << 20
    assert usage.peak_bytes is None, "the kernel counts the host's for the program too"
    assert usage.user_s + usage.system_s > 0.25


@pytest.mark.needs("landlock", level=6)
def test_usage_counts_the_program_and_its_orphans() -> None:
    assert box().run(["true"]).usage.processes == 1
    assert box().run(["sh", "-c", "(sleep 60 & sleep 60 &) ; true"]).usage.processes >= 3


ORPHAN = """
import os, time
reader, writer = os.pipe()
if not os.fork():
    if os.fork(): os._exit(0)
    while time.process_time() < 0.3: pass
    os._exit(0)
os.close(writer)
os.wait()
os.read(reader, 1)  # until the orphan has ended
"""


@pytest.mark.needs("landlock", level=6)
def test_an_orphan_is_counted_where_the_guard_adopts_it() -> None:
    usage = box().run([*PYTHON, ORPHAN]).usage
    assert usage.processes == 2, "the program, and not the child that it waited for"
    assert usage.user_s + usage.system_s > 0.25


@pytest.mark.needs("pid_namespace")
def test_the_orphans_of_a_pid_namespace_are_its_inits_and_not_counted() -> None:
    """What they cost is told all the same: the kernel adds the time of those that init has waited for to its own."""
    usage = box(fs_readable=["/proc"]).run([*PYTHON, ORPHAN]).usage
    assert usage.processes == 1
    assert usage.user_s + usage.system_s > 0.25


def test_a_result_is_plain_data() -> None:
    result = box().run(["sh", "-c", "echo x; exit 2"])
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301 - pickled here
    assert result.denials == () and result.protections
    with pytest.raises((AttributeError, TypeError)):
        result.exit_code = 0  # type: ignore[misc]  # that is the claim
    assert "exit_code=2" in repr(result)


def test_the_same_object_runs_again_and_again() -> None:
    sandbox = box()
    for code in (0, 1, 2):
        assert sandbox.run(["sh", "-c", f"exit {code}"], stdin=DEVNULL).exit_code == code
