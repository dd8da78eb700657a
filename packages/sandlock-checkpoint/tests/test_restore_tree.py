"""A tree of processes: pipes, sockets, shared memory and open files among its members, groups, sessions, zombies."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from process_lab import Lab

import sandlock_arch
from sandlock_checkpoint import CaptureError, Restored, Scope, capture
from sandlock_sys.proc import read_stat

pytestmark = pytest.mark.needs("ptrace")


def test_a_shell_pipeline_of_three_goes_on(lab: Lab) -> None:
    running = lab.start(
        [
            "bash", "-c",
            (
                "for i in $(seq 1 60); do echo line $i; sleep 0.01; done | sed -u s/line/LINE/ | "
                "while read a b; do echo got $a $b $$; done; echo end $?"
            ),
        ],
        start_new_session=True,
    )  # fmt: skip
    running.wait_for("LINE 20 ")
    with lab.take(running, scope=Scope.TREE) as checkpoint:
        assert len(checkpoint.pipes) == 2
        restored = lab.restore(checkpoint)
    assert lab.finish(restored) == 0
    assert running.lines() == [*(f"got LINE {number} {running.pid}" for number in range(1, 61)), "end 0"]


TREE = """
import mmap, os, signal, socket, sys, time
flag = sys.argv[1]
os.setsid()
shared = mmap.mmap(-1, 65536)
text = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
os.write(text, b"0123456789")
left, right = socket.socketpair()
def wait():
    while not os.path.exists(flag):
        time.sleep(0.005)
group = os.fork()
if not group:
    os.setpgid(0, 0)
    left.close()
    inner = os.fork()
    if not inner:
        shared[100] = 7
        shared[0] = 1
        wait()
        assert os.getpgrp() == os.getppid() and shared[200] == 9
        os.lseek(text, 4, os.SEEK_SET)
        os._exit(5)
    wait()
    assert right.recv(10) == b"queued"
    assert os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) == 5
    right.send(b"child is well")
    os._exit(6)
zombie = os.fork()
if not zombie:
    os._exit(77)
killed = os.fork()
if not killed:
    os.kill(os.getpid(), signal.SIGKILL)
right.close()
left.send(b"queued")
while not shared[0]:
    time.sleep(0.001)
time.sleep(0.1)
shared[200] = 9
print("ready", flush=True)
wait()
assert os.getpgid(group) == group and os.getsid(0) == os.getpid()
assert shared[100] == 7
assert left.recv(100) == b"child is well"
assert os.waitstatus_to_exitcode(os.waitpid(group, 0)[1]) == 6
assert os.lseek(text, 0, os.SEEK_CUR) == 4, "the offset is one for all"
assert os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1]) == 77
assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -9
print("family is well", flush=True)
"""


def test_a_family_has_everything_in_common_that_it_had(lab: Lab) -> None:
    flag = lab.folder / "flag"
    running = lab.python(TREE, str(flag), str(lab.folder / "text"))
    running.wait_for("ready")
    with lab.take(running, scope=Scope.TREE) as checkpoint:
        assert [process.parent for process in checkpoint.processes] == [-1, 0, 0, 0, 1]
        restored = lab.restore(checkpoint)
    flag.touch()
    assert lab.finish(restored) == 0, running.text()
    assert running.lines() == ["ready", "family is well"]


WAITING = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import os, sys, time\\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\\nsys.exit(12)", sys.argv[1]])
print("ready", flush=True)
print("waited", child.wait(), flush=True)
"""


def test_who_waits_for_a_child_goes_on_waiting(lab: Lab) -> None:
    flag = lab.folder / "flag"
    running = lab.python(WAITING, str(flag))
    running.wait_for("ready")
    with lab.take(running, scope=Scope.TREE) as checkpoint:
        restored = lab.restore(checkpoint)
    assert "waited" not in running.text()
    flag.touch()
    assert lab.finish(restored) == 0
    assert running.lines()[-1] == "waited 12"


def test_a_child_is_not_left_out_in_silence(lab: Lab) -> None:
    """CK-11: the process alone has a child that the checkpoint would lack."""
    running = lab.python(WAITING, str(lab.folder / "flag"))
    running.wait_for("ready")
    with pytest.raises(CaptureError) as caught:
        capture(running.pid)
    assert [one.kind for one in caught.value.unsupported] == ["child"]
    (lab.folder / "flag").touch()
    assert running.process.wait(20) == 0


SHARING = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
flags, call = int(sys.argv[1]), int(sys.argv[2])
child = libc.syscall(call, flags | 17, 0, 0, 0, 0)
if child:
    print("ready", flush=True)
while not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("flags", "words"),
    [(0x400, "table of descriptors"), (0x200, "working directory"), (0, "")],
    ids=["files", "fs", "control"],
)
def test_what_two_processes_have_in_common_is_named(lab: Lab, flags: int, words: str) -> None:
    """clone(2) with CLONE_FILES or CLONE_FS: after a restore each would have its own. (The last one is the control.)"""
    flag = lab.folder / "flag"
    running = lab.python(SHARING, str(flags), str(sandlock_arch.native().syscalls["clone"]), str(flag))
    running.wait_for("ready")
    if words:
        with pytest.raises(CaptureError, match=words) as caught:
            capture(running.pid, scope=Scope.TREE)
        assert [one.kind for one in caught.value.unsupported] == ["shared_process"]
    capture(running.pid, scope=Scope.TREE, allow={"shared_process"}).close()
    flag.touch()
    assert running.process.wait(20) == 0


def test_a_pipe_to_a_process_outside_is_named(lab: Lab) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(CaptureError) as caught:
            capture(process.pid)
        assert ("fd:0", "pipe") in [(one.name, one.kind) for one in caught.value.unsupported]
    finally:
        process.communicate()
    assert process.returncode == 0


def test_a_process_that_got_the_number_of_one_that_ended_is_not_killed() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        start = read_stat(stranger.pid).starttime
        Restored(stranger.pid, (stranger.pid,), (start - 1,), ()).kill()
        assert stranger.communicate()[0] is None
        assert stranger.returncode == 0
        Restored(stranger.pid, (stranger.pid,), (start,), ()).kill()  # nobody has the number
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as own:
        Restored(own.pid, (own.pid,), (read_stat(own.pid).starttime,), ()).kill()
        assert own.wait(30) == -signal.SIGKILL


def test_what_is_killed_takes_the_tree_with_it(lab: Lab) -> None:
    """A restore that fails at the last step leaves nothing behind, in whichever namespace."""
    flag = lab.folder / "flag"
    running = lab.python(WAITING, str(flag))
    running.wait_for("ready")
    with lab.take(running, scope=Scope.TREE) as checkpoint:
        restored = lab.restore(checkpoint)
    pids = restored.pids
    assert len(pids) == 2
    restored.kill()
    assert lab.finish(restored) == -signal.SIGKILL
