"""What a child starts with: default signals, no fd, no capability, nothing of the host but what was declared."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launch_lab import SCOPE_SIGNAL, fields_of, host, launched, output_of

from sandlock_sys import landlock
from sandlock_sys.spawn import NO_ASLR, NO_THP

pytestmark = pytest.mark.usefixtures("leaks")

BOTH = pytest.mark.parametrize("flags", [0, NO_THP], ids=["shared-memory", "own-memory"])
FDS = """
#include <stdio.h>
#include <stdlib.h>
#include <dirent.h>
#include <string.h>
int main(void)
{
    DIR *folder = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(folder))
            printf("%s\\n", entry->d_name);
    return 0;
}
"""


HOARDER = """
program, flags, park = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
null = os.open("/dev/null", os.O_RDONLY)
for number in range(3, 201):
    os.dup2(null, number, inheritable=True)
os.set_inheritable(7, False)
for kept in ([], [7], [150, 3, 151, 3, 0], [200]):
    if not park:
        print(sorted(map(int, output_of([program], flags=flags, keep=kept).split())))
        continue
    with launched([program], flags=flags, keep=kept, park=True) as spawned:
        print(sorted(map(int, os.listdir(f"/proc/{spawned.pid}/fd"))))
"""


@BOTH
@pytest.mark.parametrize("park", [False, True])
def test_no_fd_survives_but_stdio_and_the_declared(flags: int, park: bool, compile_c: Callable[..., Path]) -> None:
    """Also while it is parked: a pipe of the host's would not end as long as the child held it too."""
    with host(HOARDER, str(compile_c(FDS)), str(flags), str(park)) as process:
        told, _ = process.communicate(timeout=30)
    assert told.splitlines() == ["[0, 1, 2]", "[0, 1, 2, 7]", "[0, 1, 2, 3, 150, 151]", "[0, 1, 2, 200]"]


def test_stdio_comes_from_any_fd_above_two(tmp_path: Path) -> None:
    for name in ("in", "out", "err"):
        (tmp_path / name).write_text(name)
    source, sink, errors = (os.open(tmp_path / name, os.O_RDWR) for name in ("in", "out", "err"))
    try:
        with launched(["sh", "-c", "cat; echo also >&2"], stdio=(source, sink, errors)) as spawned:
            report = spawned.guard.report()
        assert report is not None
        assert report.status == 0
    finally:
        for fd in (source, sink, errors):
            os.close(fd)
    assert (tmp_path / "out").read_text() == "int"  # two bytes written over three
    assert (tmp_path / "err").read_text() == "also\n"


@BOTH
def test_signals_are_as_a_new_session_has_them(flags: int, in_child: Any) -> None:
    def body() -> bytes:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR2, signal.SIGRTMIN})
        return output_of(["cat", "/proc/self/status"], flags=flags)

    status = fields_of(in_child(body))
    assert {name: int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")} == dict.fromkeys(
        ["SigBlk", "SigIgn", "SigCgt"], 0
    )


def test_a_reader_that_leaves_ends_a_writer_inside() -> None:
    """Python ignores SIGPIPE; a program that inherited that would write for ever."""
    reader, writer = os.pipe()
    with launched(["yes"], stdio=(0, writer, 2)) as spawned:
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        report = spawned.guard.report()
    assert report is not None
    assert os.WTERMSIG(report.status) == signal.SIGPIPE


@BOTH
def test_no_capability_is_left_and_none_can_be_gained(flags: int) -> None:
    status = fields_of(output_of(["cat", "/proc/self/status"], flags=flags))
    kept = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    assert kept == dict.fromkeys(kept, 0)
    assert status["NoNewPrivs"] == "1"
    # An exec as uid 0 would give capabilities back without no_new_privs.
    status = fields_of(output_of(["sh", "-c", "exec cat /proc/self/status"], flags=flags))
    assert int(status["CapEff"], 16) == 0


@BOTH
def test_the_child_leads_a_session_of_its_own(flags: int) -> None:
    with launched(["sleep", "60"], flags=flags) as spawned:
        pid = spawned.pid
        assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid)
        assert os.getsid(spawned.guard.pid) == spawned.guard.pid
        status = fields_of(Path(f"/proc/{pid}/status").read_bytes())
        assert int(status["PPid"]) == spawned.guard.pid


@pytest.mark.needs("landlock")
def test_landlock_and_the_filter_hold_in_the_child(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert output_of(["cat", str(tmp_path / "file")]) == b"text"
    ruleset = landlock.create_ruleset(1 << 2)  # READ_FILE
    try:
        landlock.add_paths(ruleset, [(b"/usr", 1 << 2), (b"/lib", 1 << 2), (b"/lib64", 1 << 2 | landlock.OPTIONAL)])
        script = f"cat {tmp_path}/file 2>/dev/null || echo refused"
        assert output_of(["sh", "-c", script], ruleset=ruleset) == b"refused\n"
    finally:
        os.close(ruleset)


def test_limits_affinity_and_folder_are_the_childs() -> None:
    cpu = max(os.sched_getaffinity(0))
    text = output_of(
        ["sh", "-c", "pwd; ulimit -n; ulimit -c; grep Cpus_allowed_list /proc/self/status"],
        cwd=b"/usr",
        limits=[(resource.RLIMIT_NOFILE, 77, 77), (resource.RLIMIT_CORE, 0, 0)],
        affinity=[cpu],
    )
    assert text.split() == [b"/usr", b"77", b"0", b"Cpus_allowed_list:", b"%d" % cpu]


def test_huge_pages_are_off_in_the_child_only(compile_c: Callable[..., Path]) -> None:
    program = compile_c('#include <sys/prctl.h>\n#include <stdio.h>\nint main(void){printf("%d",prctl(42,0,0,0,0));}')
    before = fields_of(Path("/proc/self/status").read_bytes()).get("THP_enabled")
    assert output_of([str(program)]) == b"0"
    assert output_of([str(program)], flags=NO_THP) == b"1"
    assert fields_of(Path("/proc/self/status").read_bytes()).get("THP_enabled") == before


def test_addresses_are_random_unless_asked_otherwise(compile_c: Callable[..., Path]) -> None:
    program = compile_c('#include <stdio.h>\nint main(void){int x;printf("%p",(void *)&x);}')
    assert len({output_of([str(program)]) for _ in range(4)}) > 1
    assert len({output_of([str(program)], flags=NO_ASLR) for _ in range(4)}) == 1


ODD = [b"\xff\xfe", b"", b"a b\tc\nd", b"--", "äß".encode(), b"%s$(id)`id`", b"'\"\\"]


@BOTH
def test_arguments_and_environment_arrive_byte_by_byte(flags: int) -> None:
    text = output_of(
        ["sh", "-c", 'printf "%s\\0" "$@"; cat /proc/self/environ', "sh", *ODD],
        env=[b"PATH=/usr/bin:/bin", b"ODD=\xff\n\x01", b"EMPTY="],
        flags=flags,
    )
    words = text.split(b"\0")
    assert words[: len(ODD)] == ODD
    assert {b"ODD=\xff\n\x01", b"EMPTY="} <= set(words[len(ODD) :])


def test_a_long_command_line_arrives_whole() -> None:
    words = [b"%0100d" % number for number in range(1300)]  # 128 KiB
    text = output_of(["sh", "-c", 'printf "%s\\0" "$@" | wc -c', "sh", *words])
    assert int(text) == 1300 * 101


@pytest.mark.needs("landlock", level=6)
def test_a_child_without_a_domain_of_its_own_is_in_the_guards() -> None:
    """Which is why the runtime always gives it one: so it could signal the guard, but nobody outside."""
    ruleset = landlock.create_ruleset(0, 0, SCOPE_SIGNAL)
    try:
        text = output_of(
            ["sh", "-c", f"kill -0 {os.getpid()} 2>/dev/null || echo refused"], guard_ruleset=ruleset, ruleset=-1
        )
    finally:
        os.close(ruleset)
    assert text == b"refused\n"
