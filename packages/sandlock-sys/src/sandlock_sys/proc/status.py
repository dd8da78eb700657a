"""Parse /proc/PID/status and /proc/PID/task/TID/status (proc_pid_status(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from sandlock_sys.errors import ProcParseError

__all__ = ["Ids", "Status", "parse_status"]

_LINE = re.compile(rb"([A-Za-z_][A-Za-z0-9_]*):\t?(.*)", re.DOTALL)
_NAME_ESCAPE = re.compile(rb"\\(n|\\|[0-3][0-7][0-7])")


class Ids(NamedTuple):
    """User or group ids of a thread."""

    real: int
    effective: int
    saved: int
    file_system: int


@dataclass(frozen=True, slots=True)
class Status:
    """What the file says; None where this kernel, or this kind of process, has no such line.

    Attributes:
        name: the command name, escapes undone.
        umask: file mode mask (4.7); None for a process that is ending.
        state: R, S, D, T, t, Z, X, I, ...
        tgid: process id.
        pid: thread id.
        ppid: parent's process id, in the reader's pid namespace; 0 for none.
        tracer_pid: thread id of the tracer, 0 for none.
        uid: user ids.
        gid: group ids.
        groups: supplementary groups.
        ns_tgid: process id in each nested pid namespace, outermost first (4.1).
        ns_pid: thread id likewise (4.1).
        threads: number of threads.
        signals_pending: of the thread; bit N-1 for signal N in this and the next four.
        signals_process_pending: of the whole process.
        signals_blocked: of the thread.
        signals_ignored: of the process.
        signals_caught: of the process.
        cap_inheritable: capability set, bit N for CAP_* number N; so the next four.
        cap_permitted: likewise.
        cap_effective: likewise.
        cap_bounding: likewise.
        cap_ambient: likewise (4.3).
        no_new_privs: given up gaining privileges (4.10).
        seccomp: 0 none, 1 strict, 2 filter (3.8).
        seccomp_filters: number of filters (5.9).
        memory: every line in kB by its name ("VmRSS", "VmSize", ...), in bytes; empty for zombies and kernel threads.
        lines: every line by name, as it stands, for whatever is not above.

    """

    name: bytes
    umask: int | None
    state: str
    tgid: int
    pid: int
    ppid: int
    tracer_pid: int
    uid: Ids
    gid: Ids
    groups: tuple[int, ...]
    ns_tgid: tuple[int, ...] | None
    ns_pid: tuple[int, ...] | None
    threads: int
    signals_pending: int
    signals_process_pending: int
    signals_blocked: int
    signals_ignored: int
    signals_caught: int
    cap_inheritable: int
    cap_permitted: int
    cap_effective: int
    cap_bounding: int
    cap_ambient: int | None
    no_new_privs: bool | None
    seccomp: int | None
    seccomp_filters: int | None
    memory: Mapping[str, int]
    lines: Mapping[str, bytes]


class _Lines:
    """The lines by name, and how to read a number from one: a missing or odd one is an error, never 0."""

    def __init__(self, data: bytes, file: str) -> None:
        self.file = file
        self.values: dict[str, bytes] = {}
        self.numbers: dict[str, int] = {}
        lines = data.split(b"\n")
        if lines[-1]:
            raise ProcParseError(file, len(lines), lines[-1], "the last line is cut off")
        for number, line in enumerate(lines[:-1], 1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise ProcParseError(file, number, line, "not a name with a value")
            name = match[1].decode("ascii")
            self.values[name] = match[2]
            self.numbers[name] = number

    def integers(self, name: str, base: int = 10) -> tuple[int, ...]:
        value = self.text(name)
        try:
            return tuple(int(word, base) for word in value.split())
        except ValueError:
            raise ProcParseError(self.file, self.numbers[name], value, f"{name} is not a number") from None

    def integer(self, name: str, base: int = 10) -> int:
        numbers = self.integers(name, base)
        if len(numbers) != 1:
            raise ProcParseError(self.file, self.numbers[name], self.values[name], f"{name} is not one number")
        return numbers[0]

    def optional(self, name: str, base: int = 10) -> int | None:
        return self.integer(name, base) if name in self.values else None

    def ids(self, name: str) -> Ids:
        numbers = self.integers(name)
        if len(numbers) != 4:
            raise ProcParseError(self.file, self.numbers[name], self.values[name], f"{name} is not four ids")
        return Ids(*numbers)

    def text(self, name: str) -> bytes:
        if name not in self.values:
            raise ProcParseError(self.file, len(self.values), b"", f"there is no line {name}")
        return self.values[name]

    def memory(self) -> dict[str, int]:
        return {
            name: int(value[:-3]) * 1024
            for name, value in self.values.items()
            if value.endswith(b" kB") and value[:-3].strip().isdigit()
        }


def _unescape_name(name: bytes) -> bytes:
    def character(match: re.Match[bytes]) -> bytes:
        letter = match[1]
        return {b"n": b"\n", b"\\": b"\\"}.get(letter) or bytes((int(letter, 8),))

    return _NAME_ESCAPE.sub(character, name)


def parse_status(data: bytes, file: str = "status") -> Status:
    """Return what the file says.

    Raises:
        ProcParseError: a line has no name, a line that every kernel writes is missing, or one is not the number it
            should be.

    """
    lines = _Lines(data, file)
    no_new_privs = lines.optional("NoNewPrivs")
    return Status(
        name=_unescape_name(lines.text("Name")),
        umask=lines.optional("Umask", 8),
        state=lines.text("State")[:1].decode("ascii", "replace"),
        tgid=lines.integer("Tgid"),
        pid=lines.integer("Pid"),
        ppid=lines.integer("PPid"),
        tracer_pid=lines.integer("TracerPid"),
        uid=lines.ids("Uid"),
        gid=lines.ids("Gid"),
        groups=lines.integers("Groups"),
        ns_tgid=lines.integers("NStgid") if "NStgid" in lines.values else None,
        ns_pid=lines.integers("NSpid") if "NSpid" in lines.values else None,
        threads=lines.integer("Threads"),
        signals_pending=lines.integer("SigPnd", 16),
        signals_process_pending=lines.integer("ShdPnd", 16),
        signals_blocked=lines.integer("SigBlk", 16),
        signals_ignored=lines.integer("SigIgn", 16),
        signals_caught=lines.integer("SigCgt", 16),
        cap_inheritable=lines.integer("CapInh", 16),
        cap_permitted=lines.integer("CapPrm", 16),
        cap_effective=lines.integer("CapEff", 16),
        cap_bounding=lines.integer("CapBnd", 16),
        cap_ambient=lines.optional("CapAmb", 16),
        no_new_privs=None if no_new_privs is None else bool(no_new_privs),
        seccomp=lines.optional("Seccomp"),
        seccomp_filters=lines.optional("Seccomp_filters"),
        memory=MappingProxyType(lines.memory()),
        lines=MappingProxyType(lines.values),
    )
