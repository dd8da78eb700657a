"""Lay out replacements of vDSO functions: in place where they fit, else in the slack of the mapping behind a jump."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandlock_arch.errors import EncodeError, VdsoError
from sandlock_arch.model import Architecture
from sandlock_arch.stub import StubOperation
from sandlock_arch.vdso import Symbol, read_image

__all__ = ["VdsoPatch", "Write", "plan"]

_STUB_ALIGNMENT = 16  # bytes
_LONGEST_LANDING_PAD = 16  # bytes shown to landing_pad(); all known ones have 4


@dataclass(frozen=True, slots=True)
class Write:
    """Put `data` at `offset` bytes from the start of the mapping."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class VdsoPatch:
    """What to write, in this order, and which functions the image does not have.

    The order makes every jump appear after the code it leads to. One function still changes in several bytes: write
    while no thread of the process runs, and none has been stopped inside the vDSO, as between execve and its first
    instruction.
    """

    writes: tuple[Write, ...]
    absent: tuple[str, ...]

    def applied_to(self, image: bytes) -> bytes:
        """Return a patched copy of the image this was planned for."""
        patched = bytearray(image)
        for write in self.writes:
            patched[write.offset : write.offset + len(write.data)] = write.data
        return bytes(patched)


def plan(architecture: Architecture, image: bytes, operations: Mapping[str, StubOperation]) -> VdsoPatch:
    """Return the writes that make each entry of `operations` behave so, in a process of `architecture`.

    `image` holds the bytes of the whole [vdso] mapping; the code is position-independent, so the answer is good
    wherever the same image is mapped, and may be kept. An image patched before may be planned anew. Entries the kernel
    does not offer are reported in `absent`: a libc makes the system call itself there.

    Raise `VdsoError` if the image is malformed, an entry is none of this architecture's, or a replacement fits neither
    its function nor the slack; `StubError` for an operation the architecture cannot do. Nothing is ever half planned.
    """
    known = read_image(image, architecture.elf_machine)
    stubs = architecture.vdso_stubs
    slack = known.slack
    behind: list[Write] = []
    entries: dict[int, Write] = {}
    absent = []
    for entry, operation in operations.items():
        if entry not in stubs.ENTRIES:
            raise VdsoError(f"{architecture.name} has no such vDSO function", entry)
        symbol = known.symbols.get(stubs.ENTRIES[entry])
        if symbol is None:
            absent.append(entry)
            continue
        if symbol.offset in entries:
            raise VdsoError("shares its code with another entry to be replaced", entry)
        pad = stubs.landing_pad(image[symbol.offset : symbol.offset + _LONGEST_LANDING_PAD])
        code = pad + stubs.lower(operation)
        if len(code) > symbol.room:
            behind.append(Write(slack.start, code))
            code = pad + _jump(architecture, entry, symbol, len(pad), slack.start)
            slack = _without(slack, len(behind[-1].data), entry)
        entries[symbol.offset] = Write(symbol.offset, code)
    return VdsoPatch((*behind, *entries.values()), tuple(absent))


def _jump(architecture: Architecture, entry: str, symbol: Symbol, pad: int, target: int) -> bytes:
    try:
        jump = architecture.encode.jump(symbol.offset + pad, target)
    except EncodeError as error:
        raise VdsoError(f"no jump from {symbol.offset:#x} to {target:#x}: {error}", entry) from error
    if pad + len(jump) > symbol.room:
        raise VdsoError(f"{symbol.room} bytes are too few even for a jump, which needs {pad + len(jump)}", entry)
    return jump


def _without(slack: range, size: int, entry: str) -> range:
    if size > len(slack):
        raise VdsoError(f"{size} bytes are needed behind the code and {len(slack)} are free", entry)
    return range(min(slack.start + -(-size // _STUB_ALIGNMENT) * _STUB_ALIGNMENT, slack.stop), slack.stop)
