"""What the kernel opens by itself to run a program: the interpreters of scripts, the loader of ELF files."""

from __future__ import annotations

import os
from struct import unpack_from

from sandlock_notif.program import parse_first_line

__all__ = ["interpreters_of"]

_LEVELS = 6  # fs/exec.c, exec_binprm: five scripts, and then it must be a program
_HEAD = 4096
_INTERP = 3  # PT_INTERP, linux/elf.h
_ENTRY_64, _ENTRY_32 = 56, 32  # struct elf64_phdr, struct elf32_phdr


def interpreters_of(path: str) -> tuple[str, ...]:
    """Return the files, with their links resolved, that the program `path` is run by; what cannot be read has none."""
    found: list[str] = []
    for _ in range(_LEVELS):
        try:
            with open(path, "rb") as file:
                head = file.read(_HEAD)
            line = parse_first_line(head)
            named = line[0] if line is not None else _loader(head)
        except (OSError, ValueError):
            break
        if not named:
            break
        path = os.path.realpath(os.fsdecode(named))
        found.append(path)
        if line is None:
            break
    return tuple(found)


def _loader(head: bytes) -> bytes:
    """Return the path in PT_INTERP of an ELF file whose program headers are in `head`, as linkers put them; or b""."""
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return b""
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    at = unpack_from(f"{order}{'Q' if wide else 'I'}", head, 32 if wide else 28)[0]
    size, count = unpack_from(f"{order}HH", head, 54 if wide else 42)
    if size != (_ENTRY_64 if wide else _ENTRY_32):
        return b""
    for start in range(at, min(at + size * count, len(head) - size), size):
        if unpack_from(f"{order}I", head, start)[0] == _INTERP:
            if wide:
                offset, length = (unpack_from(f"{order}Q", head, start + place)[0] for place in (8, 32))
            else:
                offset, length = (unpack_from(f"{order}I", head, start + place)[0] for place in (4, 16))
            return head[offset : offset + length].partition(b"\0")[0]
    return b""
