"""The symbols of this process's own vDSO, read from its ELF image in memory (vdso(7)).

Only what a probe needs: names, offsets and sizes of dynamic symbols of a 64-bit little-endian image.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import NamedTuple

from sandlock_sys._buffers import own_memory
from sandlock_sys._ffi import lib

__all__ = ["Symbol", "address", "parse_symbols", "symbols"]

_PAGE = 4096
_HEADER = Struct("<16xHHIQQQIHHHHHH")  # Elf64_Ehdr, linux/elf.h, without its 16 identifying bytes
_SEGMENT = Struct("<IIQQQQQQ")  # Elf64_Phdr
_DYNAMIC = Struct("<qQ")  # Elf64_Dyn
_SYMBOL = Struct("<IBBHQQ")  # Elf64_Sym
_LOAD, _DYNAMIC_SEGMENT = 1, 2  # PT_LOAD, PT_DYNAMIC
_HASH, _STRINGS, _SYMBOLS, _GNU_HASH = 4, 5, 6, 0x6FFFFEF5  # DT_HASH, DT_STRTAB, DT_SYMTAB, DT_GNU_HASH


class Symbol(NamedTuple):
    """A function of the vDSO: `offset` from its start, `size` in bytes."""

    name: str
    offset: int
    size: int


def address() -> int:
    """Return the address of the vDSO, 0 when this process has none."""
    return lib.sl_vdso_address()


def symbols() -> tuple[Symbol, ...]:
    """Return the defined symbols of this process's vDSO, in order of their offset; () when it has none."""
    start = address()
    if not start:
        return ()
    # Safety: the kernel maps the whole image, and the first page holds the headers that tell how long it is.
    head = own_memory(start, _PAGE)
    length = max((at + size for kind, _, at, size in _segments(head) if kind == _LOAD), default=0)
    return parse_symbols(own_memory(start, length))


def parse_symbols(image: bytes) -> tuple[Symbol, ...]:
    """Return the defined dynamic symbols of an image as it lies in memory, in order of their offset.

    Raises:
        ValueError: it is no 64-bit little-endian ELF image, or its tables lie outside it.

    """
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"not a 64-bit little-endian ELF image: {image[:6]!r}")
    try:
        return _symbols(image)
    except (struct.error, KeyError, StopIteration, OverflowError) as error:
        raise ValueError(f"the ELF image of {len(image)} bytes is damaged: {error}") from error


def _symbols(image: bytes) -> tuple[Symbol, ...]:
    base = min(virtual - offset for kind, offset, virtual, _ in _segments(image) if kind == _LOAD)
    place = next(virtual - base for kind, _, virtual, _ in _segments(image) if kind == _DYNAMIC_SEGMENT)
    tables: dict[int, int] = {}
    while True:
        tag, value = _DYNAMIC.unpack_from(image, place)
        if not tag:
            break
        tables[tag] = value - base
        place += _DYNAMIC.size
    found = []
    for index in range(1, _count(image, tables)):
        name, _, _, section, value, size = _SYMBOL.unpack_from(image, tables[_SYMBOLS] + index * _SYMBOL.size)
        start = tables[_STRINGS] + name
        text = image[start : image.index(b"\0", start)].decode("ascii")
        if section and size:  # neither imported nor the version's own symbol
            found.append(Symbol(text, value - base, size))
    return tuple(sorted(found, key=lambda symbol: symbol.offset))


def _segments(image: bytes) -> list[tuple[int, int, int, int]]:
    """Return kind, file offset, address and size in memory of each segment."""
    _, _, _, _, table, _, _, _, size, count, *_ = _HEADER.unpack_from(image)
    rows = (_SEGMENT.unpack_from(image, table + index * size) for index in range(count))
    return [(kind, offset, virtual, length) for kind, _, offset, virtual, _, _, length, _ in rows]


def _count(image: bytes, tables: dict[int, int]) -> int:
    """Return the number of symbols, which only the hash tables tell."""
    word = Struct("<I")
    if _HASH in tables:
        return int(word.unpack_from(image, tables[_HASH] + 4)[0])
    place = tables[_GNU_HASH]
    buckets, first, bloom, _ = Struct("<4I").unpack_from(image, place)
    chains = place + 16 + bloom * 8 + buckets * 4
    last = max(word.unpack_from(image, chains - 4 * (index + 1))[0] for index in range(buckets))
    if last < first:
        return int(first)
    while not word.unpack_from(image, chains + 4 * (last - first))[0] & 1:  # the low bit ends a chain
        last += 1
    return int(last) + 1
