"""What the files of /proc and sysinfo(2) tell of a machine that is a sandbox's own. Pure, but for names of fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final

__all__ = ["Load", "Tally", "loadavg_text", "meminfo_text", "stat_since", "stat_text", "sysinfo", "uptime_text"]

_SYSINFO = Struct("=q3Q6QH6x2QI4x")  # struct sysinfo of 64 bits, linux/sysinfo.h
_SYSINFO_SHIFT = 16  # SI_LOAD_SHIFT, linux/sysinfo.h
_KEEP = (1884, 2014, 2037)  # EXP_1, EXP_5, EXP_15; linux/sched/loadavg.h
_ONE = 2048  # FIXED_1
_TICKS = 100  # USER_HZ
_ZEROS = b" 0 0 0 0 0 0\n"
_CONTIGUOUS: Final = (b"VmallocTotal", b"Hugepagesize")  # of address space and hardware


@dataclass(slots=True)
class Tally:
    """The tasks of a sandbox at one moment.

    Attributes:
        running, blocked: threads that run or could, and threads in an uninterruptible wait.
        threads: all of them.
        newest: the largest process id.
        user, system: clock ticks that they, and the children that they have waited for, have used.

    """

    running: int = 0
    blocked: int = 0
    threads: int = 0
    newest: int = 0
    user: int = 0
    system: int = 0


class Load:
    """The load averages of 1, 5 and 15 minutes, as kernel/sched/loadavg.c has them: `add` one count every 5 seconds."""

    PERIOD_S: Final = 5.0  # LOAD_FREQ

    def __init__(self) -> None:
        self.averages = (0, 0, 0)  # times _ONE

    def add(self, active: int) -> None:
        """Weigh in that `active` threads are running or blocked now."""
        level = active * _ONE
        self.averages = (
            _weighted(self.averages[0], _KEEP[0], level),
            _weighted(self.averages[1], _KEEP[1], level),
            _weighted(self.averages[2], _KEEP[2], level),
        )


def _weighted(load: int, keep: int, level: int) -> int:
    total = load * keep + level * (_ONE - keep)
    return (total + (_ONE - 1 if level >= load else 0)) // _ONE


def loadavg_text(load: Load, tally: Tally) -> bytes:
    """Return /proc/loadavg."""
    shown = [value + _ONE // 200 for value in load.averages]
    averages = b" ".join(b"%d.%02d" % (value // _ONE, value % _ONE * 100 // _ONE) for value in shown)
    return b"%s %d/%d %d\n" % (averages, tally.running, tally.threads, tally.newest)


def uptime_text(up_s: float, processors: int, tally: Tally) -> bytes:
    """Return /proc/uptime: seconds since the start, and seconds that all processors were idle."""
    idle = max(up_s * processors - (tally.user + tally.system) / _TICKS, 0)
    return b"%.2f %.2f\n" % (up_s, idle)


def stat_text(up_s: float, processors: int, booted_s: int, tally: Tally) -> bytes:
    """Return /proc/stat, the work shared evenly between the processors."""
    idle = max(int(up_s * _TICKS) * processors - tally.user - tally.system, 0)
    lines = [b"cpu  %d 0 %d %d%s" % (tally.user, tally.system, idle, _ZEROS)]
    each = b" %d 0 %d %d%s" % (tally.user // processors, tally.system // processors, idle // processors, _ZEROS)
    lines += [b"cpu%d%s" % (index, each) for index in range(processors)]
    lines.append(b"intr 0\nctxt 0\nbtime %d\nprocesses %d\n" % (booted_s, tally.newest))
    lines.append(b"procs_running %d\nprocs_blocked %d\n" % (max(tally.running, 1), tally.blocked))
    return b"".join([*lines, b"softirq 0", b" 0" * 10, b"\n"])


def stat_since(stat: bytes, start: int) -> bytes:
    """Return a /proc/PID/stat whose field 22, when the process started, is counted from tick `start`."""
    name = stat.rindex(b")") + 2
    words = stat[name:].split(b" ")
    words[19] = b"%d" % max(int(words[19]) - start, 0)  # fields are counted from 1, and the third comes first here
    return stat[:name] + b" ".join(words)


def meminfo_text(limit: int, used: int, real: Iterable[bytes] | None = None) -> bytes:
    """Return /proc/meminfo of a machine with `limit` bytes, of which `used` are in use; nothing is swapped or cached.

    `real` are the lines of a kernel's, for the names; None reads this one's. Every content has the same size, so that
    one write replaces another.
    """
    if real is None:
        with open("/proc/meminfo", "rb", buffering=0) as file:
            real = file.readall().splitlines()
    total, taken = limit // 1024, min(used, limit) // 1024
    told = {b"MemTotal": total, b"MemFree": total - taken, b"MemAvailable": total - taken, b"CommitLimit": total}
    told |= dict.fromkeys((b"Active", b"Active(anon)", b"AnonPages", b"Committed_AS"), taken)
    lines = []
    for line in real:
        name, _, rest = line.partition(b":")
        value, unit = rest.split()[:1], rest.split()[1:]
        number = int(value[0]) if name in _CONTIGUOUS and value else told.get(name, 0)
        lines.append(b"%-16s%8d%s\n" % (name + b":", number, b" kB" if unit else b""))
    return b"".join(lines)


def sysinfo(up_s: float, load: Load, memory: tuple[int, int], tally: Tally) -> bytes:
    """Return struct sysinfo; `memory` is (total, in use) in bytes."""
    total, used = memory
    shown = [value << _SYSINFO_SHIFT - 11 for value in load.averages]  # from FSHIFT, 11
    return _SYSINFO.pack(int(up_s), *shown, total, max(total - used, 0), 0, 0, 0, 0, min(tally.threads, 65535), 0, 0, 1)
