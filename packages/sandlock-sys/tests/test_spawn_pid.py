"""The pid namespace: no foreign process inside, an init of ours, and the end of all with it."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import alive_with, fields_of, has_ended, host, launched, new_mark, new_request, output_of, wait_until

from sandlock_sys import landlock
from sandlock_sys.spawn import NO_THP, SpawnError, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.usefixtures("leaks"), pytest.mark.needs("mount_namespace")]

ID_MAP = (os.getuid(), os.getgid()) if os.geteuid() != 0 else None
OWN: dict[str, Any] = {"scoped": False, "pid_namespace": True, "id_map": ID_MAP}
OWN_IN_HOST = f"dict(scoped=False, pid_namespace=True, id_map={ID_MAP!r})"
BOTH = pytest.mark.parametrize("flags", [0, NO_THP], ids=["shared-memory", "own-memory"])


def inside(script: str, **fields: Any) -> list[str]:
    return output_of(["sh", "-c", script], **{**OWN, **fields}).decode().splitlines()


def status_of(argv: list[str], **fields: Any) -> int:
    with launched(argv, **{**OWN, **fields}) as spawned:
        report = spawned.guard.report()
    assert report is not None
    status: int = report.status
    return status


@BOTH
def test_inf_01_foreign_processes_are_absent_and_own_ones_are_there(flags: int) -> None:
    script = "exec 2>&1; sleep 60 & ls -d /proc/[0-9]* | sort; until grep sleep /proc/$!/comm; do :; done;"
    script += "ls -d /proc/{0}; kill -0 {0}; kill $!"
    script = script.format(os.getpid()) + "; true"
    assert Path(f"/proc/{os.getpid()}/stat").exists(), "control: the host sees itself"
    listed = inside(script, flags=flags)
    pids = [int(line.rpartition("/")[2]) for line in listed if line.startswith("/proc/")]
    assert pids[:3] == [1, 2, 3]
    assert max(pids) < 10
    assert "sleep" in listed
    assert any("No such file" in line for line in listed)
    assert any("No such process" in line for line in listed)


@pytest.mark.parametrize("park", [False, True])
@BOTH
def test_inf_06_init_shows_nothing_of_the_host(flags: int, *, park: bool) -> None:
    reader, writer = os.pipe()
    script = "cd /proc/1; tr '\\0' ' ' < cmdline; cat comm; readlink cwd exe; ls fd; echo end"
    for _ in range(20):
        with launched(["sh", "-c", script], stdio=(0, writer, writer), park=park, flags=flags, **OWN) as spawned:
            spawned.go()
            spawned.guard.report()
        text = os.read(reader, 4096).decode()
        assert text.startswith("sandlock-init sandlock-init\n")
        assert "python" not in text
        assert os.getcwd() not in text
        assert text.endswith("end\n")
    os.close(reader)
    os.close(writer)


def test_the_first_program_is_not_the_init_and_has_no_capability() -> None:
    fields = fields_of("\n".join(inside("exec cat /proc/self/status")).encode())
    assert (fields["NSpid"], fields["PPid"]) == ("2", "0")
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert fields["NoNewPrivs"] == "1"
    first = fields_of("\n".join(inside("cat /proc/1/status")).encode())
    assert [int(first[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert first["NoNewPrivs"] == "1"


@BOTH
def test_the_status_is_the_programs(flags: int) -> None:
    assert os.waitstatus_to_exitcode(status_of(["sh", "-c", "exit 42"], flags=flags)) == 42
    assert os.waitstatus_to_exitcode(status_of(["sh", "-c", "kill -SEGV $$"], flags=flags)) == -signal.SIGSEGV
    assert os.waitstatus_to_exitcode(status_of(["sh", "-c", "kill -KILL $$"], flags=flags)) == -signal.SIGKILL
    assert os.waitstatus_to_exitcode(status_of(["true"], flags=flags)) == 0


def test_the_pid_that_is_told_is_the_hosts() -> None:
    for flags in (0, NO_THP):
        with launched(["sleep", "60"], flags=flags, **OWN) as spawned:
            comm = Path(f"/proc/{spawned.pid}/comm")
            assert wait_until(lambda path=comm: path.read_text() == "sleep\n")  # type: ignore[misc]  # bound now
            status = fields_of(Path(f"/proc/{spawned.pid}/status").read_bytes())
            assert status["NSpid"].split() == [str(spawned.pid), "2"]


def test_usage_counts_orphans_that_init_reaped() -> None:
    busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    with launched(["sh", "-c", f"(sh -c '{busy}; true' &) ; sleep 1.5"], **OWN) as spawned:
        report = spawned.guard.report()
    with launched(["sh", "-c", f"(sh -c ': {busy}; true' &) ; sleep 1.5"], **OWN) as spawned:
        idle = spawned.guard.report()
    assert report is not None
    assert idle is not None
    assert report.user_us > idle.user_us + 5000


def test_pr_05_orphans_are_reaped_by_init_and_end_with_the_program() -> None:
    mark = new_mark()
    script = (
        "for i in 1 2 3 4 5 6 7 8 9 10; do setsid sh -c 'sleep 0.01 & exit' & done; wait; sleep 0.3;"
        f"grep -l '^State:.Z' /proc/[0-9]*/status; setsid sleep 600 {mark} & echo started"
    )
    assert inside(f"exec 2>/dev/null; {script}") == ["started"]
    assert alive_with(mark) == []


def test_pr_05_kill_reaches_daemons_that_ignore_signals() -> None:
    mark = new_mark()
    daemon = f"trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM; while :; do sleep 600 {mark}; done' & wait"
    with launched(["sh", "-c", daemon], **OWN) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) >= 2)
        spawned.guard.kill()
        assert spawned.guard.report() is not None
        assert alive_with(mark) == []


@pytest.mark.parametrize("age_s", [0.0, 0.1], ids=["young", "old"])
def test_signals_reach_the_program_and_everyone(age_s: float) -> None:
    mark = new_mark()
    script = f"trap 'exit 7' USR1; setsid sleep 600 {mark} & while :; do sleep 0.02; done"
    with launched(["sh", "-c", script], **OWN) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) >= 2)
        time.sleep(age_s)
        spawned.guard.signal_main(signal.SIGUSR1)
        report = spawned.guard.report()
        assert report is not None
        assert os.waitstatus_to_exitcode(report.status) == 7
    reader, writer = os.pipe()
    child = "trap 'echo heard; exit' TERM; echo ready; while :; do sleep 0.02; done"
    script = f'trap : TERM; setsid sh -c "{child}" & wait $!; wait $!; exit 9'
    with launched(["sh", "-c", script], stdio=(0, writer, 2), **OWN) as spawned:
        os.close(writer)
        assert os.read(reader, 64) == b"ready\n"
        time.sleep(age_s)
        spawned.guard.signal_all(signal.SIGTERM)
        report = spawned.guard.report()
        assert report is not None
        assert os.waitstatus_to_exitcode(report.status) == 9
    assert os.read(reader, 64) == b"heard\n"
    os.close(reader)


def state_of(pid: int) -> str:
    return fields_of(Path(f"/proc/{pid}/status").read_bytes())["State"][:1]


def test_everyone_can_be_stopped_and_continued_and_the_last_order_wins() -> None:
    mark = new_mark()
    with launched(["sh", "-c", f"setsid sleep 600 {mark} & sleep 600 {mark}; :"], **OWN) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) == 3)
        everyone = alive_with(mark)
        # A shell that waits for its vfork child to execute does not stop.
        names = ["sh", "sleep", "sleep"]
        assert wait_until(lambda: [Path(f"/proc/{pid}/comm").read_text().strip() for pid in everyone] == names)
        spawned.guard.signal_all(signal.SIGSTOP)
        assert wait_until(lambda: all(state_of(pid) == "T" for pid in everyone))
        spawned.guard.signal_all(signal.SIGCONT)
        assert wait_until(lambda: all(state_of(pid) != "T" for pid in everyone))
        for _ in range(100):
            for number in (signal.SIGSTOP, signal.SIGCONT) * 3:
                spawned.guard.signal_all(number)
            time.sleep(0.001)
        assert wait_until(lambda: all(state_of(pid) != "T" for pid in everyone))
        spawned.guard.signal_all(signal.SIGSTOP)
        assert wait_until(lambda: all(state_of(pid) == "T" for pid in everyone))
        spawned.guard.kill()
        assert has_ended(spawned)


def test_the_program_cannot_end_or_stop_its_init() -> None:
    script = "for s in KILL STOP TERM HUP INT SEGV; do kill -$s 1 2>&-; done; sleep 0.1; grep State /proc/1/status"
    assert inside(f"trap '' TERM HUP INT SEGV; {script}")[-1].split()[1] == "S"
    if landlock.abi_version() >= 6:
        with new_request(["sh", "-c", "kill -TERM 1"], **OWN) as request:
            request.ruleset = landlock.create_ruleset(0, 0, 1 << 1)
            request.guard_ruleset = -1
            try:
                spawned = spawn(request)
            finally:
                os.close(request.ruleset)
            report = spawned.guard.report()
            spawned.guard.close()
        assert report is not None
        assert os.waitstatus_to_exitcode(report.status) != 0, "the scope forbids to signal init"


@pytest.mark.parametrize("age_s", [0.0, 0.1], ids=["young", "old"])
def test_a_guard_killed_from_outside_takes_daemons_along(age_s: float) -> None:
    mark = new_mark()
    with launched(["sh", "-c", f"setsid sleep 600 {mark} & setsid sleep 600 {mark} & wait"], **OWN) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) == 3)
        time.sleep(age_s)
        os.kill(spawned.guard.pid, signal.SIGKILL)
        assert wait_until(lambda: alive_with(mark) == [])
        assert spawned.guard.report() is None


@pytest.mark.parametrize("age_s", [0.0, 0.1], ids=["young", "old"])
def test_an_init_killed_from_outside_ends_the_sandbox(age_s: float) -> None:
    mark = new_mark()
    with launched(["sh", "-c", f"setsid sleep 600 {mark} & wait"], **OWN) as spawned:
        assert wait_until(lambda: len(alive_with(mark)) == 2)
        time.sleep(age_s)
        children = Path(f"/proc/{spawned.guard.pid}/task/{spawned.guard.pid}/children").read_text().split()
        (init,) = [int(pid) for pid in children if int(pid) != spawned.pid]
        assert Path(f"/proc/{init}/comm").read_text() == "sandlock-init\n"
        os.kill(init, signal.SIGKILL)
        report = spawned.guard.report()
        assert report is not None
        assert os.waitstatus_to_exitcode(report.status) == -signal.SIGKILL
        assert alive_with(mark) == []


@pytest.mark.parametrize("age_s", [0.0, 0.1], ids=["young", "old"])
def test_a_killed_host_leaves_nothing(age_s: float) -> None:
    mark = new_mark()
    command = f"trap '' TERM HUP; setsid sleep 600 {mark} & setsid sleep 600 {mark} & wait"
    script = f"""
with launched(["sh", "-c", {command!r}], **{OWN_IN_HOST}) as s:
    print(s.guard.pid, flush=True)
    time.sleep(60)
"""
    with host(script) as process:
        assert process.stdout is not None
        guard = int(process.stdout.readline())
        assert wait_until(lambda: len(alive_with(mark)) >= 3)
        time.sleep(age_s)
        process.kill()
    assert wait_until(lambda: alive_with(mark) == [], 1.0)
    assert wait_until(lambda: not Path(f"/proc/{guard}").exists() or state_of(guard) == "Z", 1.0)


def test_a_parked_child_goes_on_or_is_abandoned() -> None:
    for flags in (0, NO_THP):
        with launched(["sh", "-c", "exit 3"], park=True, flags=flags, **OWN) as spawned:
            time.sleep(0.05)
            assert fields_of(Path(f"/proc/{spawned.pid}/status").read_bytes())["NSpid"].split()[1:] == ["2"]
            spawned.go()
            report = spawned.guard.report()
            assert report is not None
            assert os.waitstatus_to_exitcode(report.status) == 3
        with launched(["true"], park=True, flags=flags, **OWN) as spawned:
            spawned.abandon()
            report = spawned.guard.report()
            assert report is not None
            assert os.waitstatus_to_exitcode(report.status) == -signal.SIGKILL


@BOTH
def test_a_failed_exec_is_told_and_leaves_nothing(flags: int) -> None:
    for _ in range(20):
        with new_request(["/nonexistent/program"], flags=flags, **OWN) as request, pytest.raises(SpawnError) as caught:
            spawn(request)
        assert (caught.value.step, caught.value.errno) == ("exec", errno.ENOENT)


def test_with_a_domain_around_the_guard_it_could_not_mount() -> None:
    ruleset = landlock.create_ruleset(0, 0, 1 << 1)
    try:
        with (
            new_request(["true"], guard_ruleset=ruleset, **OWN) as request,
            pytest.raises(ValueError, match="pid namespace"),
        ):
            spawn(request)
    finally:
        os.close(ruleset)


def test_inf_04_nothing_of_proc_can_be_written() -> None:
    probes = ["/proc/sys/kernel/hostname", "/proc/self/oom_score_adj", "/proc/self/comm", "/proc/self/uid_map"]
    told = inside("\n".join(f"( : < {path} && echo 0 > {path} ) 2>&1 || true" for path in probes))
    assert len(told) == len(probes)
    assert all("Read-only file system" in line for line in told)


@pytest.mark.parametrize("fails", ["fsopen", "unshare"])
def test_where_a_namespace_is_refused_the_step_is_told(
    fails: str, filter_for: Callable[[str, int], bytes], in_child: Any
) -> None:
    """As in a container: the launcher goes on without, and must know that it can."""

    def refused() -> tuple[str, int]:
        from sandlock_sys import prctl, seccomp

        prctl.set_no_new_privs()
        seccomp.set_mode_filter(filter_for(fails, 0x00050000 | errno.EPERM))
        with new_request(["true"], **OWN) as request:
            try:
                spawn(request)
            except SpawnError as error:
                return error.step, error.errno
        return "", 0

    assert in_child(refused) == ({"fsopen": "proc", "unshare": "namespace"}[fails], errno.EPERM)


def test_a_thousand_launches_leave_nothing(open_fds: Callable[[], set[int]]) -> None:
    with launched(["true"], **OWN) as spawned:
        spawned.guard.report()
    fds = open_fds()
    namespaces = Path("/proc/self/ns/pid").stat().st_ino
    peak = int(fields_of(Path("/proc/self/status").read_bytes())["VmRSS"].split()[0])
    for _ in range(1000):
        with launched(["true"], **OWN) as spawned:
            assert spawned.guard.report() is not None
    assert open_fds() == fds
    assert Path("/proc/self/ns/pid").stat().st_ino == namespaces
    assert int(fields_of(Path("/proc/self/status").read_bytes())["VmRSS"].split()[0]) < peak + 2048
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
