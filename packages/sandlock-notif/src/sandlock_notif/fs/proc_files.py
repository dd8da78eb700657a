"""A /proc of the sandbox's own, served where no namespace shows one: generated files by the names of the kernel's."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_notif.content.mounts import mountinfo_text, mounts_text, mountstats_text, reached
from sandlock_notif.content.sockets import HEADS, SOCKET_TABLES, devices_text, if_inet6_text, own_sockets
from sandlock_notif.task_facts import contents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_notif.content.mounts import Mounted
    from sandlock_notif.fs.layers.virtual import Generate, VirtualLayer
    from sandlock_notif.handlers.machine import MachineTable
    from sandlock_notif.processes import Process

__all__ = ["Reach", "add_proc_files"]

_FIRST = 1 << 20  # numbers of the supervisor's mounts
_ROOT = b"1 1 0:1 / / rw - none none rw\n"
_MOUNTS = {b"mounts": mounts_text, b"mountinfo": mountinfo_text, b"mountstats": mountstats_text}


@dataclass(frozen=True, slots=True)
class Reach:
    """What a program can see of mounts.

    Attributes:
        grants: the paths that may be read; mounts that they do not reach are not told.
        places: where the supervisor mounts something.
        rooted: the root is another one than the host's, whose mounts are not there.

    """

    grants: Sequence[bytes]
    places: Sequence[bytes]
    rooted: bool

    def mountinfo(self) -> bytes:
        """Return a mountinfo of all that there is."""
        own = [b"%d 1 0:1 / %s rw - none none rw\n" % (_FIRST + at, place) for at, place in enumerate(self.places)]
        return b"".join([_ROOT if self.rooted else contents("/proc/self/mountinfo"), *own])


def add_proc_files(layer: VirtualLayer, machine: MachineTable, reach: Reach, devices: Sequence[bytes]) -> None:
    """Let /proc tell of the sandbox, by every process's folder of it.

    Arguments:
        layer: gets the names.
        machine: counts the sandbox's processes.
        reach: which mounts are told.
        devices: names of the interfaces that are shown.

    """
    for name, generate in (
        (b"loadavg", machine.loadavg),
        (b"meminfo", machine.meminfo),
        (b"stat", machine.stat),
        (b"uptime", machine.uptime),
    ):
        layer.add(b"/proc/" + name, generate)
    layer.hide_processes()
    for name, write in _MOUNTS.items():
        layer.add_in_process(name, _mounts(reach, write))
    for name, column in SOCKET_TABLES.items():
        layer.add_in_process(b"net/" + name, _sockets(machine, name, column))
    for name, text in {**HEADS, b"dev": devices_text(devices), b"if_inet6": if_inet6_text()}.items():
        layer.add_in_process(b"net/" + name, _fixed(text))
    layer.add_of_process(b"stat", machine.process_stat)
    layer.hide_others_in_process(b"net")


def _fixed(text: bytes) -> Generate:
    return lambda _: text


def _mounts(reach: Reach, write: Callable[[list[Mounted]], bytes]) -> Generate:
    return lambda _: write(reached(reach.mountinfo(), reach.grants))


def _sockets(machine: MachineTable, name: bytes, column: int) -> Generate:
    def generate(process: Process) -> bytes:
        with suppress(FileNotFoundError):  # a protocol that this kernel has not
            return own_sockets(contents(f"/proc/{process.pid}/net/{name.decode()}"), column, _inodes(machine))
        return b""

    return generate


def _inodes(machine: MachineTable) -> set[bytes]:
    """Return the inodes of the sockets that the sandbox's processes have open."""
    found = set()
    for member in machine.members():
        folder = b"/proc/%d/fd" % member.pid
        with suppress(OSError):
            for name in os.listdir(folder):
                with suppress(OSError):
                    target = os.readlink(folder + b"/" + name)
                    if target.startswith(b"socket:["):
                        found.add(target[8:-1])
    return found
