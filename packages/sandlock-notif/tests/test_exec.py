"""What runs is what was judged (NOT-01, NOT-02), no spawner loses an exec, and nothing hangs (NOT-27, NOT-28)."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import PYTHON, Outcome, Table, supervise

from sandlock_arch import native
from sandlock_notif import Action, Errno, HandlerTable, Request, Trap
from sandlock_notif.handlers.exec import Command, ExecTable, decide_same, read_command
from sandlock_notif.handlers.processes import ProcessLimit
from sandlock_notif.handlers.signals import ChildSignals
from sandlock_notif.tracing import ExecOutcome, Tracer, follow_exec, pass_through
from sandlock_policy.seccomp.rules import ABSENT, Rule
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("ptrace"),
    pytest.mark.needs("compiler"),
    pytest.mark.usefixtures("leaks"),
]

CLONE3 = Rule("clone3", (), ABSENT, "as in the default filter")
SOURCE = Path(__file__).with_name("executing.c").read_text()
Compile = Callable[..., Path]


@pytest.fixture
def program(compile_c: Compile) -> str:
    return str(compile_c(SOURCE, "-pthread", "-w", "-O1"))


def judge(allowed: Callable[[Command], bool]) -> HandlerTable:
    """A table that judges what is executed, as a policy callback does, and takes its time."""

    async def decide(request: Request) -> Action | None:
        command = read_command(request, at=False)
        await asyncio.sleep(0.002)
        return None if allowed(command) else Errno(errno.EPERM, "evil")

    return Table((Trap("execve", decide, "judged"),))


def good(command: Command) -> bool:
    return b"evil" not in command.arguments


@pytest.mark.parametrize("how", ["thread", "shared"])
def test_not_01_not_02_what_runs_is_what_was_judged(program: str, how: str) -> None:
    naive = supervise([program, how, "60"], judge(good)).output
    assert b"evil" in naive  # the attack wins where the kernel simply reads again
    outcome = supervise([program, how, "60"], judge(good), ExecTable(verify=True))
    assert b"evil" not in outcome.output
    assert b"good" in outcome.output
    assert {event.reason for event in outcome.events} <= {
        "evil",
        "the arguments of the exec were changed after they had been judged: the process was killed",
    }


def test_fifty_threads_that_spawn_at_once_lose_no_exec(program: str) -> None:
    tables = (judge(good), ExecTable(verify=True))
    assert supervise([program, "spawners", "6"], *tables, rules=[CLONE3]).output == b"done\n"


def test_threads_that_execute_at_once_do_not_hang(program: str) -> None:
    outcome = supervise([program, "racing", "30"], judge(good), ExecTable(verify=True), rules=[CLONE3])
    assert outcome.output == b"x" * 30 + b"\n"
    # A thread that another one's exec ended is no refused exec.
    assert [event.reason for event in outcome.events if event.kind == "denied"] == []


def test_an_exec_that_fails_tells_its_own_errno_and_the_program_goes_on(program: str) -> None:
    outcome = supervise([program, "failing", "20"], ExecTable(verify=True))
    assert outcome.output == b"%d\n" % errno.EFAULT
    assert supervise([program, "failing", "20"], ExecTable()).output == b"%d\n" % errno.EFAULT


def test_scripts_and_their_interpreters_run(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.write_text("#!/bin/sh -e\necho inner $0 $*\n")
    outer.write_text(f"#!{inner} word\n")
    for path in (inner, outer, tmp_path, *list(tmp_path.parents)[:-2]):
        path.chmod(0o755)
    command = f"{inner} a b; cd {tmp_path}; ./inner c; ./outer d; sh -c 'exec ./inner \"\" e'; true ''"
    bare = supervise(["/bin/sh", "-c", command])
    assert bare.output.count(b"inner") >= 4
    outcome = supervise(["/bin/sh", "-c", command], ExecTable(verify=True))
    assert (outcome.output, outcome.events) == (bare.output, [])


def test_execveat_of_a_file_and_below_a_folder_runs(tmp_path: Path) -> None:
    code = f"""
import ctypes, os
libc = ctypes.CDLL(None)
words = (ctypes.c_char_p * 3)(b"echo", b"hi", None)
for folder, path, flags in ((os.open("/bin", os.O_PATH), b"echo", 0), (os.open("/bin/echo", os.O_PATH), b"", 0x1000)):
    os.set_inheritable(folder, True)
    if os.fork() == 0:
        libc.syscall({native().syscalls["execveat"]}, folder, path, words, words, flags)
        os._exit(9)
    os.wait()
"""
    outcome = supervise([PYTHON, "-I", "-S", "-c", code], ExecTable(verify=True))
    assert (outcome.output, outcome.events) == (b"hi\nhi\n", [])


def test_a_shell_with_job_control_and_pipelines_behaves() -> None:
    script = (
        "set -m; i=0; while [ $i -lt 40 ]; do echo $i | cat | tail -n1 >/dev/null & wait $!; i=$((i+1)); done; echo ok"
    )
    tables = (ChildSignals(), ProcessLimit(20), ExecTable(verify=True))
    assert supervise(["/bin/sh", "-c", script], *tables, rules=[CLONE3]).output == b"ok\n"
    assert supervise(["/bin/sh", "-c", "timeout 0.3 sleep 5; echo $?"], *fresh(), rules=[CLONE3]).output == b"124\n"


def fresh() -> tuple[HandlerTable, ...]:
    return ChildSignals(), ProcessLimit(20), ExecTable(verify=True)


def test_an_image_that_cannot_be_made_ready_does_not_run() -> None:
    class Broken:
        def stubs(self) -> dict[str, object]:
            return {}

        def prepare(self, _: object) -> Callable[[object], None]:
            def fail(_: object) -> None:
                raise SyscallError("pwrite", errno.EIO)

            return fail

    outcome = supervise(["/bin/sh", "-c", "echo ran; /bin/echo ran"], ExecTable([Broken()]))  # type: ignore[list-item]
    assert outcome.output == b""
    assert outcome.code == -signal.SIGKILL


def test_not_27_an_exec_that_cannot_be_followed_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ptrace.seize
    count = 0

    def seize(tid: int, options: int = 0) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise SyscallError("ptrace PTRACE_SEIZE", errno.EPERM)
        real(tid, options)

    monkeypatch.setattr(ptrace, "seize", seize)
    outcome = supervise(["/bin/sh", "-c", "/bin/echo ran; echo $?"], ExecTable(verify=True))
    assert outcome.output == b"126\n"
    assert any("cannot be followed" in event.reason for event in outcome.events)


@pytest.mark.parametrize("call", ["interrupt", "detach", "wait"])
def test_a_child_killed_while_it_is_followed_leaves_nothing(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at every place where the tracer could be."""
    real = getattr(ptrace, call)

    def killing(tid: int, *words: int) -> object:
        if tid > 0:
            os.kill(tid, signal.SIGKILL)
        return real(tid, *words)

    monkeypatch.setattr(ptrace, call, killing)
    outcome: Outcome = supervise(["/bin/sh", "-c", "/bin/echo ran"], ExecTable(verify=True))
    assert outcome.code == -signal.SIGKILL or call == "wait"


def test_a_traced_thread_is_let_go_when_it_was_not_the_one_that_was_meant() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "0.3"], {})
    outcomes: list[object] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(follow_exec(pid, lambda: False, lambda _: outcomes.append("looked")))
    )
    thread.start()
    thread.join()
    assert outcomes == [ExecOutcome.FAILED]
    assert os.waitpid(pid, 0)[1] == 0


def test_a_thread_that_is_stopped_once_goes_on() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "0.3"], {})
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.extend((pass_through(pid), pass_through(1 << 22))))
    thread.start()
    thread.join()
    assert results == [True, False]
    assert os.waitpid(pid, 0)[1] == 0


def test_a_closed_tracer_takes_no_jobs() -> None:
    async def main() -> None:
        tracer = Tracer()
        assert await tracer.run(lambda: 5) == 5
        await tracer.close()
        await tracer.close()
        with pytest.raises(Exception, match="closed"):
            await tracer.run(lambda: 6)

    asyncio.run(main())


WORDS = st.lists(st.binary(max_size=5).filter(lambda word: b"\0" not in word), max_size=5)


@given(WORDS, WORDS)
def test_only_the_same_arguments_are_the_same(judged: list[bytes], run: list[bytes]) -> None:
    line = b"".join(word + b"\0" for word in run)
    assert decide_same(b"/p", judged, b"/p", line) == (judged == run)
    assert not decide_same(b"/p", judged, b"/q", line)
    assert not decide_same(b"/p", None, b"/p", line)
