"""Where on the host processes are shown, so that no mount of a run shows those of others."""

from __future__ import annotations

import os

from sandlock_policy.paths import is_below

__all__ = ["ProcMounts"]


class ProcMounts:
    """The proc file systems that are mounted here, as of now; `mountinfo` as in proc_pid_mountinfo(5)."""

    def __init__(self, mountinfo: str = "/proc/self/mountinfo") -> None:
        with open(mountinfo, "rb", buffering=0) as table:
            lines = [line.split() for line in table.readall().splitlines() if b" - proc " in line]
        # (what of it is mounted, where); of sysctl alone, say, no process is shown.
        self._mounts = [(_plain(line[3]), _plain(line[4])) for line in lines if _shows_processes(_plain(line[3]))]

    def shown_in(self, folder: str) -> str | None:
        """Return a place at or below `folder`, links resolved, that shows processes of the host; None when none does.

        A `folder` that belongs to a process in such a place is one.
        """
        real = os.path.realpath(folder)
        for shown, place in self._mounts:
            if is_below(place, real):
                return place
            if is_below(real, place) and (shown != "/" or _shows_processes(real[len(place) :])):
                return real
        return None

    def shown_elsewhere(self, root: str) -> str | None:
        """Return likewise, for a folder that becomes the root: its own /proc is covered, or reached by no grant."""
        real = os.path.realpath(root)
        own = os.path.join(real, "proc")
        return next((place for _, place in self._mounts if is_below(place, real) and not is_below(place, own)), None)


def _shows_processes(path: str) -> bool:
    return path == "/" or path.split("/")[1].isdigit()


def _plain(escaped: bytes) -> str:
    """Return the name that mountinfo writes with each of blank, tab, newline and backslash as three octal digits."""
    first, *rest = escaped.split(b"\\")
    return os.fsdecode(first + b"".join([bytes([int(part[:3], 8)]) + part[3:] for part in rest]))
