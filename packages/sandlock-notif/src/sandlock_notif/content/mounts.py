"""The mounts that a program is told of: those that its grants reach, without the host's paths and options. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Mounted", "mountinfo_text", "mounts_text", "mountstats_text", "reached"]


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount, of proc_pid_mountinfo(5); `place` is escaped as it is there."""

    number: bytes
    parent: bytes
    device: bytes
    place: bytes
    options: bytes
    kind: bytes


def reached(mountinfo: bytes, grants: Iterable[bytes]) -> list[Mounted]:
    """Return of a mountinfo the root, and every mount that holds one of the granted paths or lies below one."""
    mounts = [_parsed(line) for line in mountinfo.splitlines()]
    folders = [_folder(_escaped(path)) for path in grants]
    wanted = {b"/"}
    for folder in folders:
        places = [mount.place for mount in mounts]
        wanted |= {place for place in places if _folder(place).startswith(folder)}
        wanted.add(max((place for place in places if folder.startswith(_folder(place))), key=len, default=b"/"))
    return [mount for mount in mounts if mount.place in wanted]


def _folder(path: bytes) -> bytes:
    return path.rstrip(b"/") + b"/"


def _escaped(path: bytes) -> bytes:
    for byte in (b"\\", b" ", b"\t", b"\n"):
        path = path.replace(byte, b"\\%03o" % byte[0])
    return path


def _parsed(line: bytes) -> Mounted:
    before, _, after = line.partition(b" - ")
    number, parent, device, _, place, options = before.split(b" ")[:6]
    return Mounted(number, parent, device, place, options, after.split(b" ")[0])


def mounts_text(mounts: Sequence[Mounted]) -> bytes:
    """Return /proc/PID/mounts: the kind of file system stands for the device."""
    return b"".join(b"%s %s %s %s 0 0\n" % (one.kind, one.place, one.kind, one.options) for one in mounts)


def mountinfo_text(mounts: Sequence[Mounted]) -> bytes:
    """Return /proc/PID/mountinfo: each mount shows the whole of its file system, and hangs on one that is shown."""
    shown = {one.number for one in mounts}
    top = next((one.number for one in mounts if one.place == b"/"), b"1")
    lines = []
    for one in mounts:
        parent = one.parent if one.parent in shown else top
        mode = one.options.split(b",")[0]
        head = b" ".join((one.number, parent, one.device, b"/", one.place, one.options))
        lines.append(b"%s - %s %s %s\n" % (head, one.kind, one.kind, mode))
    return b"".join(lines)


def mountstats_text(mounts: Sequence[Mounted]) -> bytes:
    """Return /proc/PID/mountstats."""
    return b"".join(b"device %s mounted on %s with fstype %s\n" % (one.kind, one.place, one.kind) for one in mounts)
