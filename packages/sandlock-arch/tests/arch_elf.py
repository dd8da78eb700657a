"""Build small vDSO images for any architecture, with functions of any size."""

from __future__ import annotations

import struct
from dataclasses import dataclass

PAGE = 4096
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(frozen=True)
class Function:
    """A function of the image: its code fills `size` bytes; with `claims`, the symbol says another size."""

    name: str
    size: int
    code: bytes = b""
    claims: int | None = None


def build(
    machine: int,
    functions: list[Function],
    *,
    pages: int = 1,
    filler: bytes = b"\xee",
    gap: int = 0,
    linked_at: int = 0,
) -> bytes:
    """Return an image of `pages` pages; functions stand one behind the other, `gap` bytes apart."""
    strings = b"\0" + b"".join(function.name.encode() + b"\0" for function in functions)
    header_size = _HEADER.size + 2 * _SEGMENT.size
    strings_at = header_size
    symbols_at = (strings_at + len(strings) + 7) // 8 * 8
    hash_at = symbols_at + (len(functions) + 1) * _SYMBOL.size
    # One bucket and one chain: enough for a reader that only counts.
    table = struct.pack(f"<{2 + 1 + len(functions) + 1}I", 1, len(functions) + 1, *(0,) * (len(functions) + 2))
    dynamic_at = (hash_at + len(table) + 7) // 8 * 8
    # DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL
    pointers = ((4, linked_at + hash_at), (5, linked_at + strings_at), (6, linked_at + symbols_at))
    tags = (*pointers, (10, len(strings)), (11, _SYMBOL.size), (0, 0))
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    text_at = (dynamic_at + len(dynamic) + 63) // 64 * 64

    text = bytearray()
    symbols = bytearray(_SYMBOL.size)
    name_at = 1
    for function in functions:
        size = function.size if function.claims is None else function.claims
        symbols += _SYMBOL.pack(name_at, 0x12, 0, 1, linked_at + text_at + len(text), size)  # STB_GLOBAL, STT_FUNC
        text += (function.code + filler * function.size)[: function.size] + b"\xcc" * gap
        name_at += len(function.name) + 1

    end = text_at + len(text)
    sections_at = (end + 7) // 8 * 8
    sections = bytes(_SECTION.size) + _SECTION.pack(0, 1, 6, text_at, text_at, len(text), 0, 0, 64, 0)  # SHT_PROGBITS
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    image = bytearray(pages * PAGE)
    header = _HEADER.pack(identity, 3, machine, 1, 0, _HEADER.size, sections_at, 0, 64, 56, 2, 64, 2, 0)
    segments = _SEGMENT.pack(1, 5, 0, linked_at, linked_at, end, end, PAGE)
    segments += _SEGMENT.pack(
        2, 4, dynamic_at, linked_at + dynamic_at, linked_at + dynamic_at, len(dynamic), len(dynamic), 8
    )
    parts = (
        (0, header + segments),
        (strings_at, strings),
        (symbols_at, bytes(symbols)),
        (hash_at, table),
        (dynamic_at, dynamic),
        (text_at, bytes(text)),
        (sections_at, sections),
    )
    for at, part in parts:
        image[at : at + len(part)] = part
    assert len(image) == pages * PAGE, "the functions do not fit"
    return bytes(image)
