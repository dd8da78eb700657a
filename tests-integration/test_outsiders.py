"""Other processes: the host and its threads, the guard, a sibling sandbox, strangers (NOT-17 18, PR-10 11, LL-16)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack_lab import Box, World, alive_with, call, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Victim

HARMLESS = {
    # These arm a descriptor of the attacker's own: whether the signal then arrives is for the victim to say.
    "owner_pid",
    "owner_tid",
    "owner_pgrp",
}
SIGNALS = {
    "kill", "kill_thread_id", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "kill_group",
    "pidfd_send_signal",
}  # fmt: skip
MUST_WIN_BARE = SIGNALS | {
    "process_vm_writev", "proc_mem_write", "pidfd_getfd", "kcmp", "ptrace_poke", "prlimit_write", "sched_setaffinity",
    "sched_setscheduler", "sched_setattr", "setpriority", "ioprio_set", "setpriority_group", "move_pages",
    "get_robust_list",
}  # fmt: skip


@pytest.mark.every_abi
@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("granted_proc", [False, True], ids=["", "proc"])
def test_pr_10_not_18_ll_16_a_stranger_of_the_same_user_is_out_of_reach(
    box: Box, new_victim: Callable[[], Victim], world: World, granted_proc: bool
) -> None:
    control = new_victim()
    bare = box.bare_lines("outsider", *control.handles)
    assert {name for name in MUST_WIN_BARE if not bare[name].won} == set()
    assert "canary=UNTOUCHD" not in control.state()
    victim = new_victim()
    before = victim.state()
    extra = {"fs_writable": [str(box.work), "/proc"]} if granted_proc else {}
    inside = box.lines("outsider", *victim.handles, **extra)
    after = victim.state()
    won = {name for name, line in inside.items() if line.won} - HARMLESS
    if granted_proc:  # the file was granted, and what the kernel lets its owner write there is what was granted
        won.discard("proc_oom_score_adj")
        before, after = (re.sub(" oom=-?[0-9]+", "", text) for text in (before, after))
    if "scope_signal" in world.missing():
        won -= SIGNALS | {"pidfd_by_proc"}
        before, after = (re.sub(" signals=[0-9]+", "", text) for text in (before, after))
    assert won == set(), {name: inside[name] for name in won}
    assert after == before


@pytest.mark.needs("ptrace")
@pytest.mark.needs("landlock", level=6)
def test_pr_11_a_sibling_sandbox_is_out_of_reach(box: Box) -> None:
    with (
        box.sandbox() as sibling,
        box.sandbox() as attacker,
        sibling.popen([box.program("victim")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        commands, answers = process.stdin, process.stdout

        def state() -> bytes:
            commands.write(b"state\n")
            commands.flush()
            return bytes(answers.readline())

        handles = process.stdout.readline().decode().split()
        before = state()
        result = attacker.run([box.program("outsider"), *handles], timeout=20)
        won = {name for name, line in read_lines(result.stdout).items() if line.won} - HARMLESS
        assert won == set()
        assert state() == before
        process.kill()


def test_pr_11_the_attack_on_a_sibling_wins_between_two_of_one_sandbox(box: Box) -> None:
    """The control of the test above: within one sandbox signals do arrive."""
    shell = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", os.path.dirname(box.program("invoke"))]
    script = 'sleep 5 & kill -9 $!; wait $!; echo "ended $?"'
    assert b"ended 137" in box.inside("/bin/sh", "-c", script, fs_readable=shell).stdout


HOST = """
import json, os, sys, threading, time, ctypes, signal, resource
sys.path[:0] = json.loads(os.environ["TEST_PATHS"])
from attack_lab import World, forced_landlock
from sandlock import Sandbox
seen = []
for number in (signal.SIGUSR1,):
    signal.signal(number, lambda n, f: seen.append(n))
memory = ctypes.create_string_buffer(b"UNTOUCHD")
done = threading.Event()
other = threading.Thread(target=done.wait); other.start()
def state():
    return [memory.value.decode(), len(seen), resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(0, 0),
            os.getpriority(0, other.native_id), os.sched_getscheduler(0), os.sched_getscheduler(other.native_id),
            sorted(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(other.native_id)),
            open("/proc/self/oom_score_adj").read().strip()]
job = json.loads(sys.stdin.readline())
before = state()
with forced_landlock(job["abi"]), Sandbox(**job["fields"]) as sandbox:
    result = sandbox.run([job["program"], str(os.getpid()), str(other.native_id), str(ctypes.addressof(memory)), "0",
                          str(os.getpgrp())], timeout=30)
time.sleep(0.05)
after = state()
done.set()
print(json.dumps({"before": before, "after": after, "output": result.stdout.decode(), "code": result.exit_code}))
"""


@pytest.mark.needs("ptrace")
@pytest.mark.needs("landlock", level=6)
def test_not_18_pr_10_the_host_and_its_threads_are_out_of_reach(box: Box, world: World) -> None:
    job = {"abi": world.landlock_abi, "fields": box.fields(), "program": box.program("outsider")}
    done = subprocess.run(
        [sys.executable, "-c", HOST],
        input=json.dumps(job) + "\n",
        env={**os.environ, "TEST_PATHS": json.dumps([os.path.dirname(__file__), *sys.path])},
        capture_output=True, text=True, timeout=60, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    lines = read_lines(told["output"].encode())
    assert len(lines) > 40
    won = {name for name, line in lines.items() if line.won} - HARMLESS
    assert won == set(), won
    assert told["after"] == told["before"]


@pytest.mark.needs("ptrace")
@pytest.mark.needs("landlock", level=6)
def test_not_17_the_guard_is_out_of_reach(box: Box, mark: str) -> None:
    """The parent of the program is the guard: it is found by getppid, and by every pid near our own.

    With a /proc of its own the program lives in a PID namespace, where its parent is 0 (itself, for kill) and the one
    it could find is that namespace's first process.
    """
    parent = box.lines("who")["parent"].result
    assert parent > 0
    guard = "if test $PPID = 0; then guard=1; else guard=$PPID; fi; "
    script = f'{guard} exec "{box.program("outsider")}" $guard $guard 4096 0 $guard # {mark}'
    shell = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", os.path.dirname(box.program("invoke"))]
    for readable in (shell, [*shell, "/proc"]):
        result = box.inside("/bin/sh", "-c", script, fs_readable=readable)
        lines = read_lines(result.stdout)
        assert len(lines) > 40, (result.stdout, result.stderr)
        won = {name for name, line in lines.items() if line.won} - HARMLESS
        assert won == set(), won
        assert result.exit_code == 0
        kill = f"{guard} kill -9 $guard; kill -STOP $guard; kill -TERM $guard; kill -CONT $guard; echo alive"
        result = box.inside("/bin/sh", "-c", kill, fs_readable=readable)
        assert b"alive" in result.stdout
        assert result.exit_code == 0


@pytest.mark.every_abi
def test_ll_16_kill_of_everything_reaches_only_the_sandbox(
    box: Box, new_victim: Callable[[], Victim], world: World
) -> None:
    """Not run bare: it would reach every process of the user. SIGURG is ignored by whoever does not count it.

    The call itself says 0 where every process refused the signal (kernel/signal.c), so only the victim's count tells.
    """
    if "scope_signal" in world.missing():
        pytest.skip("before ABI 6 nothing scopes signals; PR-10 checks that the result says so")
    victim, control = new_victim(), new_victim()
    before = victim.state()
    inside = box.lines(
        "invoke", *call("all", "kill", -1, signal.SIGURG), *call("group", "kill", 0, 0), *call("self", "getpid")
    )
    os.kill(control.pid, signal.SIGURG)
    time.sleep(0.05)
    assert "signals=1" in control.state(), "from outside the signal arrives"
    assert inside["group"].won
    assert victim.state() == before


def test_ll_17_no_group_and_no_session_of_the_caller_is_joined(box: Box, new_victim: Callable[[], Victim]) -> None:
    victim = new_victim()  # a group of its own in our session
    bare = subprocess.run(
        [box.program("invoke"), *call("join", "setpgid", 0, victim.pid)],
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert b"join 0 0" in bare.stdout
    inside = box.lines("invoke", *call("join", "setpgid", 0, victim.pid), *call("host", "setpgid", 0, os.getpgrp()))
    assert not inside["join"].won
    assert not inside["host"].won
    who = box.lines("who")
    assert who["session_leader"].result == 1


@pytest.mark.needs("landlock", level=6)
def test_ll_scope_pids_of_the_sandbox_itself_are_signalled(box: Box) -> None:
    inside = box.lines(
        "invoke", *call("me", "getpid"), *call("kill", "kill", "@me", 0), *call("t", "tgkill", "@me", "@me", 0)
    )
    assert inside["kill"].won
    assert inside["t"].won


def test_inf_04_oom_and_scheduling_files_of_others_are_not_written(box: Box, outsider: object) -> None:
    pid = outsider.pid  # type: ignore[attr-defined] # testkit's Outsider
    words: list[str] = []
    for name in ("oom_score_adj", "timerslack_ns", "coredump_filter", "clear_refs", "comm", "autogroup", "mem"):
        words += [
            *call(f"-{name}_open", "openat", -100, f"/proc/{pid}/{name}", os.O_WRONLY),
            *call(name, "write", f"@-{name}_open", "1", 1),
        ]
    for path in ("/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
        words += call(f"open_{os.path.basename(path)}", "openat", -100, path, os.O_WRONLY)
    assert box.bare_lines("invoke", *words)["oom_score_adj"].won
    score = Path(f"/proc/{pid}/oom_score_adj").read_text()
    for grant in ({}, {"fs_readable": [*box.fields()["fs_readable"], "/proc"]}):
        inside = box.lines("invoke", *words, **grant)
        assert not any(line.won for line in inside.values()), inside
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == score


LAUNCHER = """
import json, os, sys
sys.path[:0] = json.loads(os.environ["TEST_PATHS"])
from attack_lab import forced_landlock
from sandlock import Sandbox
job = json.loads(sys.stdin.readline())
with forced_landlock(job["abi"]):
    sandbox = Sandbox(**job["fields"])
    print("starting", flush=True)
    print(sandbox.run(job["command"], timeout=60))
"""


def launch(box: Box, command: list[str], abi: int = 0) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "TEST_PATHS": json.dumps([os.path.dirname(__file__), *sys.path])}, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps({"abi": abi, "fields": box.fields(), "command": command}).encode() + b"\n")
    process.stdin.flush()
    return process


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


@pytest.mark.every_abi
@pytest.mark.parametrize("kind", ["family", "stubborn", "comet"])
def test_not_17_when_the_host_is_killed_the_tree_is_gone_within_a_second(
    box: Box, mark: str, kind: str, world: World
) -> None:
    host = launch(box, [box.program("outlive"), kind, mark, "20", "stay"], world.landlock_abi)
    try:
        assert wait_until(lambda: len(alive_with(mark)) >= (20 if kind == "family" else 1), 10), host.stderr
        time.sleep(0.1)
        host.send_signal(signal.SIGKILL)
        host.wait()
        assert wait_until(lambda: not alive_with(mark), 1.0), alive_with(mark)
    finally:
        host.kill()
        host.communicate()


def test_not_17_the_host_is_killed_at_any_moment_of_the_launch(box: Box, mark: str) -> None:
    for step in range(40):
        host = launch(box, [box.program("outlive"), "family", mark, "20", "stay"])
        assert host.stdout is not None
        assert host.stdout.readline() == b"starting\n", host.stderr
        time.sleep(step * 0.0004)
        host.send_signal(signal.SIGKILL)
        host.communicate()
    assert wait_until(lambda: not alive_with(mark), 1.0), alive_with(mark)
    assert wait_until(lambda: not _guards_without_host(), 1.0)


def _guards_without_host() -> list[int]:
    """Guards whose host is gone: their second argument is its pid."""
    left = []
    for pid, words in alive_with("sandlock-guard").items():
        parts = words.split()
        if parts[0] == "sandlock-guard" and len(parts) > 2 and not os.path.exists(f"/proc/{parts[2]}"):
            left.append(pid)
    return left


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


@pytest.mark.every_abi
def test_not_17_when_the_guard_is_killed_the_program_goes_and_daemons_too_or_are_listed_as_open(
    box: Box, mark: str, world: World
) -> None:
    """Only the user, root or the kernel short of memory can do that; the sandbox cannot (see above)."""
    host = launch(box, [box.program("outlive"), "family", mark, "20", "stay"], world.landlock_abi)
    try:
        assert wait_until(lambda: len(alive_with(mark)) >= 20, 10)
        # The first process is the one whose parent, the guard, is a child of the host.
        first, guard = next(
            (pid, _parent(pid)) for pid in alive_with(mark) if pid != host.pid and _parent(_parent(pid)) == host.pid
        )
        os.kill(guard, signal.SIGKILL)
        assert wait_until(lambda: first not in alive_with(mark), 2.0), "the first process has a death signal"
        assert host.wait(timeout=5) == 0, "the host is told, and goes on"
        assert host.stdout is not None
        assert b"SUPERVISOR" in host.stdout.read()
        if not wait_until(lambda: not alive_with(mark), 1.0):
            model = (Path(__file__).parent.parent / "docs" / "threat-model.md").read_text()
            assert "A guard killed from outside" in model, alive_with(mark)
    finally:
        host.kill()
        host.communicate()
        wait_until(lambda: not alive_with(mark), 1.0)
        for pid in alive_with(mark):  # ours: started above, and marked
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
