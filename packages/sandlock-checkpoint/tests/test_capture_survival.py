"""Whatever happens to who captures, the captured process runs on as if nothing had been."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from process_lab import Lab, Running, build, capture_until, in_child, state_of, wait_until

import sandlock_arch
from sandlock_checkpoint import CaptureError, Leave, capture, tracing
from sandlock_checkpoint.capture import drive, stop
from sandlock_sys import ptrace
from sandlock_sys.errors import SyscallError
from sandlock_sys.proc import Status, list_tasks, read_status

pytestmark = pytest.mark.needs("ptrace")


def kill_at_every_step(running: Running, stride: int) -> int:
    """Let captures die after every `stride`-th step; return how many died."""
    killed = 0
    while True:
        code = in_child(partial(capture_until, running.pid, killed * stride + 1))
        assert running.process.poll() is None, f"it died after step {killed * stride + 1}: {running.text()!r}"
        if code == 0:
            return killed
        assert code == -signal.SIGKILL, code
        killed += 1


def test_who_computes_in_vector_registers_survives_a_killed_capture(lab: Lab, programs: Path) -> None:
    flags = ("-O2", "-mavx2") if "avx2" in Path("/proc/cpuinfo").read_text() else ("-O2",)
    running = lab.start([build(programs, "vectors", *flags), "600"])
    running.wait_for("round 200\n")
    assert kill_at_every_step(running, 1) > 50
    seen = len(running.lines())
    wait_until(lambda: len(running.lines()) > seen + 2, "three more rounds")
    assert running.process.poll() is None
    assert "wrong" not in running.text()


# Not epoll_wait: any stop ends it with EINTR (signal(7)), and only a capture that lives can mend that.
@pytest.mark.parametrize("call", ["read", "poll", "futex"])
def test_who_waits_in_the_kernel_survives_a_killed_capture(lab: Lab, programs: Path, call: str) -> None:
    flag = lab.folder / "flag"
    running = lab.start([build(programs, "blocked"), call, flag])
    running.wait_for("ready")
    time.sleep(0.05)
    assert kill_at_every_step(running, 3) > 10
    flag.touch()
    assert running.process.wait(60) == 0
    assert running.lines()[1].startswith("ended")


def test_without_the_frame_a_killed_capture_is_deadly(
    lab: Lab, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the tests above: what they claim is not so by itself."""
    parts = sandlock_arch.native()._loaded()  # the one place where the frame comes from
    monkeypatch.setattr(sandlock_arch.native(), "_parts", parts._replace(rescue=None))
    running = lab.start([build(programs, "counter")])
    running.wait_for("0 ")
    with pytest.raises(AssertionError, match="it died after step"):
        kill_at_every_step(running, 1)


@pytest.mark.parametrize(
    "name", ["describe_mappings", "examine_process", "describe_process", "OpenFiles", "own_vdso_digest"]
)
@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_failing_capture_lets_every_thread_run_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    running = lab.python(
        "import threading, time\n"
        "def work():\n    for _ in range(20): time.sleep(0.01)\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "for thread in threads: thread.start()\nprint('ready')\n"
        "for thread in threads: thread.join()\nprint('done')"
    )
    running.wait_for("ready")

    def fail(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(drive, name, fail)
    with pytest.raises((type(error), CaptureError)):
        capture(running.pid)
    assert running.process.wait(20) == 0
    assert running.lines()[-1] == "done"


def test_a_process_that_is_traced_already_is_refused(lab: Lab) -> None:
    """CK-10: another tracer may change it meanwhile."""
    running = lab.python("import time; print('ready'); time.sleep(0.5); print('done')")
    running.wait_for("ready")
    ptrace.seize(running.pid)

    def capture_too() -> None:
        with pytest.raises(CaptureError, match=f"process {os.getppid()} traces"):
            capture(running.pid)

    assert in_child(capture_too) == 0
    ptrace.interrupt(running.pid)
    wait_until(lambda: isinstance(ptrace.wait(running.pid), ptrace.Stopped), "the stop")
    ptrace.detach(running.pid)
    assert running.process.wait(20) == 0


def test_a_process_that_makes_threads_and_dies_is_captured_or_refused(lab: Lab) -> None:
    """CK-10: threads that come and go while it is stopped; each capture is whole, or a typed refusal."""
    running = lab.python(
        "import threading, time\nprint('ready')\nend = time.monotonic() + 3\n"
        "while time.monotonic() < end:\n"
        "    threads = [threading.Thread(target=lambda: None) for _ in range(20)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
        "print('done')"
    )
    running.wait_for("ready")
    for _ in range(20):
        with capture(running.pid) as checkpoint:
            assert len(checkpoint.processes[0].threads) == len(os.listdir(f"/proc/{running.pid}/task"))
    assert running.process.wait(20) == 0
    assert running.lines()[-1] == "done"
    with pytest.raises(CaptureError):
        capture(running.pid)


def test_a_thread_that_is_past_its_end_is_no_reason_to_refuse(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel answers EPERM for a thread that has ended and stands in /proc for a moment more."""
    running = lab.python("import time; print('ready'); time.sleep(60)")
    running.wait_for("ready")
    ended = subprocess.Popen(["true"])  # a number that is nobody's any more
    ended.wait()
    seize = ptrace.seize

    def seize_or_refuse(tid: int, options: int = 0) -> None:
        if tid == ended.pid:
            raise SyscallError("ptrace", errno.EPERM)
        seize(tid, options)

    monkeypatch.setattr(stop, "list_tasks", lambda pid: [*list_tasks(pid), ended.pid])
    monkeypatch.setattr(ptrace, "seize", seize_or_refuse)
    with capture(running.pid) as checkpoint:
        assert len(checkpoint.processes[0].threads) == 1


def test_threads_that_stop_slowly_are_all_captured_and_let_go(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine: whoever is waited for, those that have stopped meanwhile are not taken for ended."""
    monkeypatch.setattr(tracing, "_SPINS", 0)
    running = lab.python(
        "import threading, time\n"
        "threads = [threading.Thread(target=time.sleep, args=(2,)) for _ in range(8)]\n"
        "for thread in threads: thread.start()\nprint('ready')\n"
        "for thread in threads: thread.join()\nprint('done')"
    )
    running.wait_for("ready")
    for _ in range(5):
        with capture(running.pid) as checkpoint:
            assert len(checkpoint.processes[0].threads) == 9
    assert running.process.wait(20) == 0
    assert running.lines()[-1] == "done"


EXECUTES = """
import os, sys, threading, time
def execute():
    while not os.path.exists(sys.argv[1]):
        pass
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(0.2); print('done')"])
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
thread = threading.Thread(target=execute)
thread.start()
print("ready", thread.native_id, flush=True)
time.sleep(60)
"""


def test_a_thread_that_executes_a_program_meanwhile_is_refused_and_runs_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CK-10: execve(2) kills all other threads and waits until their tracer has buried them, who waits for it."""
    flag = lab.folder / "flag"
    running = lab.python(EXECUTES, str(flag))
    running.wait_for("\n")
    executing = int(running.text().split()[1])
    interrupt = ptrace.interrupt

    def let_it_execute(tid: int) -> None:
        if tid == executing:  # all others have been told to stop, it has not
            flag.touch()
            time.sleep(0.3)
        interrupt(tid)

    monkeypatch.setattr(ptrace, "interrupt", let_it_execute)
    monkeypatch.setattr(stop, "list_tasks", lambda pid: sorted(list_tasks(pid), key=lambda tid: tid == executing))
    with pytest.raises(CaptureError, match="run another program"):
        capture(running.pid)
    monkeypatch.undo()
    assert running.process.wait(20) == 0
    assert running.lines()[1:] == ["done"]


def test_a_stopped_process_stays_stopped(lab: Lab) -> None:
    """One that SIGSTOP holds is still held afterwards, and goes on at SIGCONT."""
    running = lab.python("import time; print('ready'); time.sleep(0.3); print('done')")
    running.wait_for("ready")
    os.kill(running.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(running.pid) == "T", "the stop")
    capture(running.pid).close()
    time.sleep(0.1)
    assert state_of(running.pid) == "T"
    os.kill(running.pid, signal.SIGCONT)
    assert running.process.wait(20) == 0


def test_leave_says_what_becomes_of_it(lab: Lab) -> None:
    running = lab.python("import time; print('ready'); time.sleep(0.3); print('done')")
    running.wait_for("ready")
    capture(running.pid, leave=Leave.STOPPED).close()
    time.sleep(0.05)
    assert state_of(running.pid) == "T"
    os.kill(running.pid, signal.SIGCONT)
    assert running.process.wait(20) == 0
    other = lab.start([sys.executable, "-c", "import time; time.sleep(30)"])
    time.sleep(0.1)
    capture(other.pid, leave=Leave.KILLED).close()
    assert other.process.wait(20) == -signal.SIGKILL


KEEPER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import threading, time\\nfor _ in range(3): threading.Thread(target=time.sleep, args=(60,)).start()"])
print(child.pid, flush=True)
print("ended", child.wait(), flush=True)
"""


def test_threads_that_die_slowly_are_all_buried(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread is a zombie before the others are, and nobody hears of its end before theirs."""
    keeper = lab.python(KEEPER)
    keeper.wait_for("\n")
    pid = int(keeper.text())
    wait_until(lambda: len(list_tasks(pid)) == 4, "three threads")
    late = set(list_tasks(pid)) - {pid}

    def refuse(_tid: int, _signal: int = 0) -> None:
        raise SyscallError("ptrace", errno.ESRCH)  # what the kernel says of a thread that has been killed

    def slowly(process: int, tid: int | None = None) -> Status:
        status = read_status(process, tid)
        if tid not in late:
            wait_until(lambda: read_status(process, tid).state == "Z", "the end of the main thread")
            return read_status(process, tid)
        late.discard(tid)
        return replace(status, state="R")

    with capture(pid, leave=Leave.KILLED) as checkpoint:
        monkeypatch.setattr(ptrace, "detach", refuse)
        monkeypatch.setattr(stop, "read_status", slowly)
        checkpoint.save(lab.folder / "image")
    assert not late
    keeper.wait_for(f"ended {-signal.SIGKILL}")
