"""`Sandbox`: one live program per object, its signals, its fields."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from runtime_lab import PYTHON, box, is_alive, line_of, number_here, state_of, wait_until

from sandlock_policy import Policy
from sandlock_policy.errors import PolicyError
from sandlock_runtime import (
    DEVNULL,
    PIPE,
    ChildError,
    CommandNotRunnableError,
    ConfinementError,
    NotRunningError,
    Process,
    Result,
    Sandbox,
    SandboxBusyError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandlock_testkit.tree import Tree

pytestmark = pytest.mark.usefixtures("leaks")


def test_run_captures_both_streams_and_waits() -> None:
    result = box().run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.stdout, result.stderr, result.exit_code, result.success) == (b"out\n", b"err\n", 3, False)
    assert box().run(["true"]).success


def test_a_policy_and_fields_combine(tree: Tree) -> None:
    policy = Policy(fs_readable=["/usr", "-/lib", "-/lib64"], env={"A": "policy", "B": "kept"})
    sandbox = Sandbox(policy, env={"A": "field"})
    assert sandbox.run(["sh", "-c", "echo $A"]).stdout == b"field\n"
    assert sandbox.policy.fs_readable == policy.fs_readable
    assert policy.env == {"A": "policy", "B": "kept"}


@pytest.mark.needs("two_cpus")
def test_settings_of_a_process_are_those_of_the_policy() -> None:
    code = """
import ctypes, os
prctl, personality = ctypes.CDLL(None).prctl, ctypes.CDLL(None).personality
PR_GET_THP_DISABLE, ADDR_NO_RANDOMIZE = 42, 0x0040000
print(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), personality(0xFFFFFFFF) & ADDR_NO_RANDOMIZE, *os.sched_getaffinity(0))
"""
    cpu = max(os.sched_getaffinity(0))
    told = box(no_huge_pages=True, no_randomize_memory=True, cpu_cores=str(cpu)).run([*PYTHON, code])
    assert told.stdout.split() == [b"1", b"%d" % 0x0040000, b"%d" % cpu], told.stderr
    bare = box().run([*PYTHON, code]).stdout.split()
    assert (bare[:2], len(bare) > 3) == ([b"0", b"0"], True)


def test_nothing_is_granted_by_default(tree: Tree) -> None:
    with pytest.raises(CommandNotRunnableError):
        Sandbox().run(["true"])
    denied = box().run(["cat", str(tree.canary.path)])
    assert not denied.success and tree.canary.secret.encode() not in denied.stdout
    granted = box(fs_readable=[str(tree.secret)]).run(["cat", str(tree.canary.path)])
    assert granted.stdout.decode().strip() == tree.canary.secret


def test_fields_are_attributes() -> None:
    sandbox = Sandbox(timeout="3s", name="blue", env={"A": "1"})
    assert (sandbox.timeout, sandbox.name, sandbox.env["A"], sandbox.grace) == (3.0, "blue", "1", 2.0)
    with pytest.raises(AttributeError, match="neither Sandbox nor Policy has 'timeuot'"):
        _ = sandbox.timeuot
    half_made = Sandbox.__new__(Sandbox)  # what copy and pickle make first
    with pytest.raises(AttributeError):
        _ = half_made.timeout


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"http_allow": ["GET example.org/*"]}, "http.allow"),
        ({"uid": 0, "fs_denied": ["/etc/shadow"]}, "program.uid"),
    ],
)
def test_a_field_that_is_not_enforced_yet_refuses_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(named)) as caught:
        box(**fields).run(["true"])
    assert any(problem.field.startswith(named) for problem in caught.value.problems)


def test_arguments_that_programs_for_the_other_sdk_write_are_taken() -> None:
    Sandbox(handlers=(), policy_fn=None, init_fn=None, work_fn=print)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        box(uid=0, gid=0, fs_denied=["/etc/shadow"]).run(["true"])
    assert {problem.field for problem in caught.value.problems} == {"program.uid", "program.gid"}


@pytest.mark.parametrize("again", ["run", "popen", "create", "spawn"])
def test_a_second_start_while_one_lives_is_refused(again: str) -> None:
    sandbox = box()
    with sandbox.popen(["sleep", "60"], stdout=DEVNULL) as process:
        with pytest.raises(SandboxBusyError):
            getattr(sandbox, again)(["true"])
        assert is_alive(process.pid)  # the refusal did not touch the one that lives
    assert sandbox.run(["true"]).success


def test_a_failed_start_leaves_the_object_free(tree: Tree) -> None:
    sandbox = box()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            sandbox.run(["no-such-program"])
        with pytest.raises(FileNotFoundError):
            sandbox.popen(["no-such-program"])
        with pytest.raises(TypeError):
            sandbox.run("true")
        with pytest.raises(OSError, match="Bad file descriptor"):
            sandbox.popen(["true"], stdout=987)
    assert sandbox.pid is None and not sandbox.is_running
    assert sandbox.run(["true"]).success


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"input": b"x", "stdin": 0}, "either stdin or input"),
        ({"max_output": -1}, "max_output is a number of bytes"),
    ],
)
def test_arguments_that_contradict_are_refused(arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        box().run(["true"], **arguments)


def test_pid_and_is_running_follow_the_program() -> None:
    sandbox = box()
    assert (sandbox.pid, sandbox.is_running, sandbox.protections) == (None, False, ())
    process = sandbox.popen(["sleep", "60"])
    assert (sandbox.pid, sandbox.is_running) == (process.pid, True)
    assert {row.name for row in sandbox.protections} >= {"fs_access", "syscalls", "tree_kill"}
    sandbox.kill()
    assert sandbox.wait().reason == "KILLED"
    assert (sandbox.pid, sandbox.is_running) == (None, False)
    assert sandbox.protections  # of the latest launch


def test_create_stops_before_the_program_and_start_lets_it_go_on(tree: Tree) -> None:
    mark = tree.work / "mark"
    sandbox = box(fs_writable=[str(tree.work)])
    sandbox.create(["touch", str(mark)])
    pid = sandbox.pid
    assert pid is not None
    time.sleep(0.1)
    assert not mark.exists() and is_alive(pid) and sandbox.is_running
    sandbox.start()
    assert sandbox.wait().success and mark.exists()


@pytest.mark.parametrize("how", ["kill", "leave", "exit"])
def test_a_parked_program_can_be_given_up(how: str, tree: Tree) -> None:
    mark = tree.work / "mark"
    with box(fs_writable=[str(tree.work)]) as sandbox:
        sandbox.create(["touch", str(mark)])
        pid = sandbox.pid
        if how == "kill":
            sandbox.kill()
            assert sandbox.wait().reason == "KILLED"
        elif how == "exit":
            sandbox.__exit__(None, None, None)
    assert pid is not None and not is_alive(pid) and not mark.exists()


def test_starting_what_was_killed_while_parked_does_not_hang() -> None:
    sandbox = box()
    sandbox.create(["true"])
    sandbox.kill()
    pid = sandbox.pid
    wait_until(lambda: pid is None or not is_alive(pid))
    sandbox.start()
    assert sandbox.wait().reason == "KILLED"


def test_start_tells_what_cannot_be_executed() -> None:
    sandbox = box()
    sandbox.create(["no-such-program"])
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        sandbox.start()
    assert sandbox.run(["true"]).success


def test_start_without_create_is_refused() -> None:
    with pytest.raises(NotRunningError):
        box().start()
    with pytest.raises(NotRunningError):
        box().wait()


def test_start_of_what_runs_already_changes_nothing() -> None:
    sandbox = box()
    sandbox.create(["sleep", "60"])
    sandbox.start()
    sandbox.start()
    assert sandbox.is_running
    sandbox.kill()
    sandbox.wait()


def test_spawn_and_wait_give_the_same_result_each_time() -> None:
    sandbox = box()
    sandbox.spawn(["sh", "-c", "exit 5"])
    first = sandbox.wait()
    assert first.exit_code == 5 and sandbox.wait() is first


def test_wait_collects_output_that_nobody_took() -> None:
    sandbox = box()
    sandbox.popen(["sh", "-c", "head -c 300000 /dev/zero || echo x; echo err >&2"], stdout=PIPE, stderr=PIPE)
    assert sandbox.wait().stderr.endswith(b"err\n")


def test_wait_obeys_the_timeout_of_the_policy() -> None:
    sandbox = box(timeout=0.2, grace=0)
    started = time.monotonic()
    sandbox.spawn(["sleep", "60"])
    assert sandbox.wait().reason == "TIMEOUT"
    assert time.monotonic() - started < 10


def test_send_signal_reaches_the_program_only() -> None:
    sandbox = box()
    code = "trap 'echo got it; exit 7' USR1; sleep 60 & echo ready; wait"
    with sandbox.popen(["sh", "-c", code], stdout=PIPE) as process:
        assert line_of(process.stdout) == "ready"
        sandbox.send_signal(signal.SIGUSR1)
        assert process.wait(10).exit_code == 7
        assert line_of(process.stdout) == "got it"


def test_pause_stops_daemons_too_and_resume_continues_them() -> None:
    sandbox = box()
    with sandbox.popen(["sh", "-c", "setsid sleep 60 & echo $!; wait"], stdout=PIPE) as process:
        daemon = number_here(int(line_of(process.stdout)), process.pid)
        both = (process.pid, daemon)
        wait_until(lambda: [state_of(pid) for pid in both] == ["S", "S"])
        sandbox.pause()
        wait_until(lambda: [state_of(pid) for pid in both] == ["T", "T"])
        assert sandbox.is_running
        sandbox.resume()
        wait_until(lambda: [state_of(pid) for pid in both] == ["S", "S"])
    assert not any(is_alive(pid) for pid in both)


@pytest.mark.parametrize("call", [Sandbox.pause, Sandbox.resume, lambda sandbox: sandbox.send_signal(15)])
def test_signals_without_a_program_are_refused(call: Callable[[Sandbox], None]) -> None:
    with pytest.raises(NotRunningError):
        call(box())
    box().kill()  # what is wanted is the case already


def test_a_stopped_tree_is_killed_all_the_same() -> None:
    sandbox = box()
    sandbox.spawn(["sleep", "60"])
    sandbox.pause()
    sandbox.kill()
    assert sandbox.wait().reason == "KILLED"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_leaving_the_block_kills_the_tree_whatever_happened(error: type[BaseException]) -> None:
    pids: list[int] = []

    def body() -> None:
        with box() as sandbox:
            process = sandbox.popen(["sh", "-c", "setsid sleep 60 & echo $!; wait"], stdout=PIPE)
            pids.extend([process.pid, number_here(int(line_of(process.stdout)), process.pid)])
            raise error

    with pytest.raises(error):
        body()
    assert len(pids) == 2 and not any(is_alive(pid) for pid in pids)


def test_a_block_without_a_program_is_fine() -> None:
    with box() as sandbox:
        assert sandbox.run(["true"]).success
    with box():
        pass


@pytest.mark.parametrize("start", ["run", "popen"])
def test_passed_fds_keep_their_numbers_and_no_other_fd_does(start: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    other = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(other, True)
    code = f"import os; os.write({writer}, str(sorted(map(int, os.listdir('/proc/self/fd')))).encode())"
    sandbox = box(fs_readable=["/proc"])
    try:
        if start == "run":
            assert sandbox.run([*PYTHON, code], pass_fds=[writer]).stderr == b""
        else:
            with sandbox.popen([*PYTHON, code], pass_fds=[writer]) as process:
                assert process.wait(10).success
        found = eval(os.read(reader, 1000))  # noqa: S307 - a list of numbers of our own
        assert writer in found and other not in found
        assert len([fd for fd in found if fd > 2]) == 2  # the listing's own is the other
    finally:
        for fd in (reader, writer, other):
            os.close(fd)


def test_a_bad_passed_fd_is_told() -> None:
    sandbox = box()
    with pytest.raises((OSError, ConfinementError)):
        sandbox.run(["true"], pass_fds=[987])
    assert sandbox.run(["true"]).success


def test_check_raises_for_all_but_success() -> None:
    fine = box().run(["true"])
    assert fine.check() is fine
    with pytest.raises(ChildError, match="exit code 4: no luck") as caught:
        box().run(["sh", "-c", "echo no luck >&2; exit 4"]).check()
    assert caught.value.result.exit_code == 4
    with pytest.raises(ChildError, match="signal 9"):
        box().run(["sh", "-c", "kill -9 $$"]).check()


def test_commands_are_strings_bytes_and_paths(tree: Tree) -> None:
    sandbox = box(fs_readable=[str(tree.read)])
    assert sandbox.run([tree.read / "tool.sh"]).stdout == b"tool ran\n"
    assert sandbox.run([b"printf", b"%s", b"\xff\xfe"]).stdout == b"\xff\xfe"
    assert sandbox.run(["printf", "%s", "\udcff"]).stdout == b"\xff"
    for wrong in ([], [""]):
        with pytest.raises(ValueError, match="at least the name"):
            sandbox.run(wrong)
    with pytest.raises(ValueError, match="NUL"):
        sandbox.run(["echo", "a\0b"])
    assert sandbox.run(["true"]).success


def test_types_of_what_is_returned() -> None:
    sandbox = box()
    assert type(sandbox.run(["true"])) is Result
    with sandbox.popen(["true"]) as process:
        assert type(process) is Process
