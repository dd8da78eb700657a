"""Parse /proc/PID/smaps: the mappings of a process with what they use (proc_pid_smaps(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass
from types import MappingProxyType

from sandlock_sys.errors import ProcParseError
from sandlock_sys.proc.maps import Mapping, parse_mapping

__all__ = ["MappingUse", "parse_smaps"]

_VALUE = re.compile(rb"([A-Za-z][A-Za-z0-9_]*): *([0-9]+)( kB)?")
_FLAGS = re.compile(rb"VmFlags:((?: [a-z0-9?]{2})*) ?")
_HEADER = re.compile(rb"[0-9a-f]+-[0-9a-f]+ ")


@dataclass(frozen=True, slots=True)
class MappingUse:
    """A mapping and its numbers.

    Attributes:
        mapping: what it is.
        values: every other line by name ("Rss", "Private_Dirty", "THPeligible", ...); sizes are in bytes.
        flags: the two-letter VmFlags ("rd", "wr", "io", "dd", "wf", ...); empty where the kernel gives none.

    """

    mapping: Mapping
    values: ReadOnlyDict[str, int]
    flags: frozenset[str]


def parse_smaps(data: bytes, file: str = "smaps") -> tuple[MappingUse, ...]:
    """Return the mappings in order of address.

    Raises:
        ProcParseError: a line is none of smaps.

    """
    lines = data.split(b"\n")
    if lines[-1]:
        raise ProcParseError(file, len(lines), lines[-1], "the last line is cut off")
    found: list[MappingUse] = []
    values: dict[str, int] = {}
    for number, line in enumerate(lines[:-1], 1):
        if _HEADER.match(line):
            values = {}
            found.append(MappingUse(parse_mapping(line, number, file), MappingProxyType(values), frozenset()))
        elif not found:
            raise ProcParseError(file, number, line, "the first line is not a mapping")
        elif match := _VALUE.fullmatch(line):
            values[match[1].decode("ascii")] = int(match[2]) * (1024 if match[3] else 1)
        elif match := _FLAGS.fullmatch(line):
            found[-1] = MappingUse(found[-1].mapping, found[-1].values, frozenset(match[1].decode("ascii").split()))
        else:
            raise ProcParseError(file, number, line, "neither a mapping nor a number nor flags")
    return tuple(found)
