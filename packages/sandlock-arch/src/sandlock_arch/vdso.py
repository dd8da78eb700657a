"""Read a vDSO image: where its functions are, and which bytes of the mapping nothing uses.

The image comes out of another process, which may have written to it: every count is bounded before it is used as one,
so that a hostile image costs an error and not the caller's time.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from sandlock_arch.errors import VdsoError

__all__ = ["MAX_IMAGE", "Symbol", "VdsoImage", "read_image"]

# Bytes. Kernels have one to three pages, and a page may have 64 KiB.
MAX_IMAGE = 256 * 1024

# Entries of each ELF table. Real images have some 5 segments, 20 sections, 25 tags and 15 symbols.
_MAX_ENTRIES = 256
_MAX_NAME = 128  # bytes of a symbol's name

_SLACK_ALIGNMENT = 16  # bytes; instructions are fetched in blocks of this size or more
_DYNAMIC_ENTRY = struct.Struct("<QQ")  # Elf64_Dyn: d_tag, d_val
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: st_name, st_info, st_other, st_shndx, st_value, st_size
_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr: sh_name, sh_type, _flags, _addr, _offset, _size, ...
_WITHOUT_CONTENT = (0, 8)  # SHT_NULL, SHT_NOBITS
_FUNCTION_TYPES = (0, 2)  # STT_NOTYPE, STT_FUNC: assembler functions may lack a type
_FIRST_RESERVED_SECTION = 0xFF00  # SHN_LORESERVE; SHN_ABS above it marks version names, not code

# What pyelftools lets through for tables that lie; found by changing bytes of real images.
_MALFORMED = (
    ELFError,
    ConstructError,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    TypeError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function: `offset` from the start of the image, `room` bytes that are its own and no other symbol's."""

    name: str
    offset: int
    room: int


@dataclass(frozen=True, slots=True)
class VdsoImage:
    """What is where in an image; `slack` are the offsets that no table, section or segment claims, all zero."""

    symbols: dict[str, Symbol]
    slack: range


def read_image(image: bytes, elf_machine: int) -> VdsoImage:
    """Read `image`, the bytes of a whole [vdso] mapping, as made for `elf_machine`.

    Symbols are found as a libc finds them: through PT_DYNAMIC, not through sections. Raise `VdsoError` for an image
    that is too large, made for another machine, or not a well-formed 64-bit little-endian shared object.
    """
    if len(image) > MAX_IMAGE:
        raise VdsoError(f"an image of {len(image)} bytes is larger than any vDSO ({MAX_IMAGE} bytes)")
    try:
        elf = ELFFile(io.BytesIO(image))
        _check_header(elf, elf_machine)
        symbols = _symbols(elf, image)
        claimed = max(_claimed_ends(elf, image))
    except VdsoError:
        raise
    except _MALFORMED as error:
        raise VdsoError(f"malformed image: {error}") from error
    return VdsoImage(symbols, _slack(image, claimed))


def _check_header(elf: ELFFile, elf_machine: int) -> None:
    header = elf.header
    # e_machine may be a name or a number, by what pyelftools knows; the bytes are certain.
    elf.stream.seek(16)
    kind, machine = struct.unpack("<HH", elf.stream.read(4))
    if elf.elfclass != 64 or not elf.little_endian or kind != 3:  # ET_DYN
        raise VdsoError("not a 64-bit little-endian shared object")
    if machine != elf_machine:
        raise VdsoError(f"made for ELF machine {machine}, not {elf_machine}")
    if header["e_phnum"] > _MAX_ENTRIES or header["e_shnum"] > _MAX_ENTRIES:
        raise VdsoError(f"{header['e_phnum']} segments and {header['e_shnum']} sections are more than a vDSO has")
    if header["e_shoff"] and (not header["e_shnum"] or header["e_shentsize"] != _SECTION.size):
        # No sections under an offset means that section 0 counts them, up to 2**64 (gABI, extended numbering).
        raise VdsoError("section headers of another size or number than a vDSO has")


def _claimed_ends(elf: ELFFile, image: bytes) -> Iterator[int]:
    """Yield the offsets at which the things the ELF headers speak of end."""
    header = elf.header
    yield header["e_ehsize"]
    yield header["e_phoff"] + header["e_phnum"] * header["e_phentsize"]
    for segment in elf.iter_segments():
        yield segment["p_offset"] + max(segment["p_filesz"], segment["p_memsz"])
    sections_end = header["e_shoff"] + header["e_shnum"] * _SECTION.size
    yield sections_end
    if sections_end > len(image):
        # Headers that are not mapped may claim anything that is.
        yield len(image)
        return
    # Read here and not by pyelftools, which parses the content of some types too and fails where that is odd.
    for at in range(header["e_shoff"], sections_end, _SECTION.size):
        _, kind, _, _, offset, size, *_ = _SECTION.unpack_from(image, at)
        if kind not in _WITHOUT_CONTENT:
            yield offset + size


def _slack(image: bytes, claimed: int) -> range:
    """Return the offsets behind everything claimed that hold nothing but zero.

    Bytes other than zero behind the last claim are somebody's, such as code an earlier patch put there.
    """
    used = max(claimed, len(image.rstrip(b"\0")))
    start = -(-used // _SLACK_ALIGNMENT) * _SLACK_ALIGNMENT
    return range(min(start, len(image)), len(image))


def _symbols(elf: ELFFile, image: bytes) -> dict[str, Symbol]:
    starts: dict[str, tuple[int, int]] = {}
    dynamic = _dynamic_segment(elf, image)
    count = dynamic.num_symbols()
    if count > _MAX_ENTRIES:
        raise VdsoError(f"{count} symbols are more than a vDSO has")
    _, table = dynamic.get_table_offset("DT_SYMTAB")
    _, strings = dynamic.get_table_offset("DT_STRTAB")
    if table is None or strings is None:
        raise VdsoError("no symbol table")
    bias = _bias(elf)
    for index in range(count):
        name_at, info, _, section, value, size = _SYMBOL.unpack_from(image, table + index * _SYMBOL.size)
        if info & 0xF not in _FUNCTION_TYPES or section == 0 or section >= _FIRST_RESERVED_SECTION:
            continue
        name_at += strings
        name = image[name_at : image.index(b"\0", name_at, name_at + _MAX_NAME)].decode("ascii")
        offset = value - bias
        if offset < 0 or offset + size > len(image):
            raise VdsoError(f"symbol {name!r} lies outside the image")
        starts[name] = (offset, size)
    # A size that runs into the next symbol is cut: what we overwrite must belong to one function.
    borders = [*sorted({offset for offset, _ in starts.values()}), len(image)]
    following = dict(pairwise(borders))
    return {
        name: Symbol(name, offset, min(size, following[offset] - offset)) for name, (offset, size) in starts.items()
    }


def _bias(elf: ELFFile) -> int:
    """Return the address the image was linked at: 0 today, high addresses before Linux 3.15."""
    for segment in elf.iter_segments(type="PT_LOAD"):
        bias: int = segment["p_vaddr"] - segment["p_offset"]
        return bias
    raise VdsoError("no loaded segment")


def _dynamic_segment(elf: ELFFile, image: bytes) -> DynamicSegment:
    for segment in elf.iter_segments(type="PT_DYNAMIC"):
        start, size = segment["p_offset"], segment["p_filesz"]
        tags = image[start : start + size]
        if size > _MAX_ENTRIES * _DYNAMIC_ENTRY.size or size % _DYNAMIC_ENTRY.size or len(tags) != size:
            raise VdsoError(f"a dynamic segment of {size} bytes")
        # pyelftools reads until DT_NULL, wherever that is.
        if all(tag for tag, _ in _DYNAMIC_ENTRY.iter_unpack(tags)):
            raise VdsoError("a dynamic segment without an end")
        if isinstance(segment, DynamicSegment):
            return segment
    raise VdsoError("no dynamic segment")
