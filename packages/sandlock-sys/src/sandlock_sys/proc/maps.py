"""Parse /proc/PID/maps: the mappings of a process (proc_pid_maps(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sandlock_sys.errors import ProcParseError

__all__ = ["Mapping", "parse_mapping", "parse_maps"]

# The kernel pads the name to a column, and leaves one space where there is none.
_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])([ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+) *([^ ].*)?",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\([0-3][0-7][0-7])")
_DELETED = b" (deleted)"


@dataclass(frozen=True, slots=True)
class Mapping:
    r"""One mapping.

    Attributes:
        start: first address.
        end: first address behind it.
        readable: PROT_READ.
        writable: PROT_WRITE.
        executable: PROT_EXEC.
        shared: MAP_SHARED; else private, copied on write.
        offset: of the mapping in its file, in bytes.
        device: (major, minor) of the file system, (0, 0) without a file.
        inode: of the file, 0 without one.
        name: path of the file, or a name in brackets ([heap], [stack], [vdso], [anon:...]), or b"".
        deleted: the file has no name any more.

    The kernel escapes a newline in a path as \012 and nothing else, and appends " (deleted)". So a file whose name
    contains those very characters looks the same; the link /proc/PID/map_files/START-END tells them apart.

    """

    start: int
    end: int
    readable: bool
    writable: bool
    executable: bool
    shared: bool
    offset: int
    device: tuple[int, int]
    inode: int
    name: bytes
    deleted: bool

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start


def parse_maps(data: bytes, file: str = "maps") -> tuple[Mapping, ...]:
    """Return the mappings in order of address.

    Raises:
        ProcParseError: a line is not a mapping.

    """
    lines = data.split(b"\n")
    if lines[-1]:
        raise ProcParseError(file, len(lines), lines[-1], "the last line is cut off")
    return tuple(parse_mapping(line, number, file) for number, line in enumerate(lines[:-1], 1))


def parse_mapping(line: bytes, number: int = 1, file: str = "maps") -> Mapping:
    """Return the mapping that one line, without its newline, describes.

    Raises:
        ProcParseError: it does not; `number` and `file` are where it stands.

    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise ProcParseError(file, number, line, "not a mapping")
    start, end, read, write, execute, shared, offset, major, minor, inode, name = match.groups(b"")
    if int(start, 16) >= int(end, 16):
        raise ProcParseError(file, number, line, "the mapping ends before it starts")
    deleted = inode != b"0" and name.endswith(_DELETED)
    if deleted:
        name = name[: -len(_DELETED)]
    if b"\\" in name:
        name = _ESCAPE.sub(lambda escape: bytes((int(escape[1], 8),)), name)
    return Mapping(
        start=int(start, 16),
        end=int(end, 16),
        readable=read == b"r",
        writable=write == b"w",
        executable=execute == b"x",
        shared=shared == b"s",
        offset=int(offset, 16),
        device=(int(major, 16), int(minor, 16)),
        inode=int(inode),
        name=name,
        deleted=deleted,
    )
