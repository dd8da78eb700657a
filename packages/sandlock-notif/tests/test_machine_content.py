"""What is told of a sandbox's machine, as text; and that a kernel's own files are understood."""

from __future__ import annotations

from pathlib import Path
from struct import unpack

from hypothesis import given
from hypothesis import strategies as st

from sandlock_notif.content.machine import (
    Load,
    Tally,
    loadavg_text,
    meminfo_text,
    stat_since,
    stat_text,
    sysinfo,
    uptime_text,
)
from sandlock_notif.content.mounts import mountinfo_text, mounts_text, mountstats_text, reached
from sandlock_notif.content.sockets import own_sockets
from sandlock_sys.proc import parse_stat

MOUNTS = b"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw,nosuid - proc proc rw
24 22 0:6 / /srv ro - overlay overlay rw,lowerdir=/secret/lower,upperdir=/secret/upper
25 24 8:2 /secret/part /srv/with\\040space rw - xfs /dev/sdb1 rw
26 22 0:7 / /home rw - nfs host:/export rw
"""


def test_load_averages_are_those_of_the_kernel() -> None:
    load = Load()
    for _ in range(12):
        load.add(2)  # a minute of two busy threads: 2 * (1 - 1/e), as fixed point has it
    assert loadavg_text(load, Tally(1, 0, 3, 77)).startswith(b"1.27 0.37 0.13 ")
    for _ in range(3000):
        load.add(2)
    assert loadavg_text(load, Tally(1, 0, 3, 77)) == b"2.00 2.00 2.00 1/3 77\n"
    for _ in range(3000):
        load.add(0)
    assert loadavg_text(load, Tally()) == b"0.00 0.00 0.00 0/0 0\n"


def test_times_add_up() -> None:
    tally = Tally(user=300, system=100, newest=9, running=2)
    assert uptime_text(10.0, 2, tally) == b"10.00 16.00\n"
    lines = stat_text(10.0, 2, 1234, tally).decode().splitlines()
    assert lines[0].split()[:5] == ["cpu", "300", "0", "100", "1600"]
    assert [line.split()[:5] for line in lines[1:3]] == [[f"cpu{index}", "150", "0", "50", "800"] for index in (0, 1)]
    assert {"btime 1234", "processes 9", "procs_running 2"} <= set(lines)


@given(limit=st.integers(1 << 20, 1 << 45), used=st.integers(0, 1 << 46))
def test_memory_is_never_more_than_the_limit(limit: int, used: int) -> None:
    told = {line.split()[0]: int(line.split()[1]) for line in meminfo_text(limit, used).splitlines()}
    assert told[b"MemTotal:"] == limit // 1024
    assert 0 <= told[b"MemFree:"] == told[b"MemAvailable:"] <= told[b"MemTotal:"]
    assert told[b"SwapTotal:"] == told[b"Cached:"] == 0
    assert [line.split()[0] for line in Path("/proc/meminfo").read_bytes().splitlines()] == list(told)


def test_sysinfo_has_the_kernels_layout() -> None:
    load = Load()
    load.averages = (2048, 4096, 0)
    words = unpack("=q3Q6QHHI2QI4x", sysinfo(12.9, load, (1 << 30, 1 << 29), Tally(threads=5)))
    assert words[:6] == (12, 1 << 16, 2 << 16, 0, 1 << 30, 1 << 29)
    assert (words[10], words[-1]) == (5, 1)


def test_a_start_is_counted_from_another_tick() -> None:
    real = Path("/proc/self/stat").read_bytes().replace(b"(python", b"(a) b ) 1")
    start = parse_stat(real).starttime
    shown = parse_stat(stat_since(real, start - 7))
    assert (shown.starttime, shown.vsize, shown.comm) == (7, parse_stat(real).vsize, parse_stat(real).comm)
    assert parse_stat(stat_since(real, start + 7)).starttime == 0


def test_mounts_are_told_without_the_hosts_names() -> None:
    found = reached(MOUNTS, [b"/srv/with space/x", b"/proc"])
    assert [one.place for one in found] == [b"/", b"/proc", b"/srv/with\\040space"]
    for text in (mounts_text(found), mountinfo_text(found), mountstats_text(found)):
        assert not [word for word in (b"secret", b"/dev/", b"export", b"/home") if word in text]
    assert mountinfo_text(found).splitlines()[2] == b"25 22 8:2 / /srv/with\\040space rw - xfs xfs rw"
    assert len(reached(MOUNTS, [b"/"])) == 5
    assert [one.place for one in reached(MOUNTS, [b"/srv"])][1:] == [b"/srv", b"/srv/with\\040space"]


def test_own_sockets_are_told_by_their_inode() -> None:
    table = b"head\n 0: a b c d e f g h 11 x\n 1: a b c d e f g h 12 x\n short\n"
    assert own_sockets(table, 9, {b"12"}) == b"head\n 1: a b c d e f g h 12 x\n"
    assert own_sockets(b"", 9, {b"12"}) == b""
    assert own_sockets(b"head\nx 7\n", -1, {b"7"}) == b"head\nx 7\n"
