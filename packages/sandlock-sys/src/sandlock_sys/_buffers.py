"""Memory shared with C: the one place that touches cffi's buffers.

Input structures go down as `bytes` made by `struct` (cffi passes their address and the caller's reference keeps them
alive for the call). What the kernel writes goes into a `bytearray` wrapped here.
"""

from __future__ import annotations

from sandlock_sys._ffi import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_sys._ffi import CData

__all__ = ["NULL", "Strings", "address", "hold", "own_memory", "readable", "string", "strings", "writable"]

NULL = ffi.NULL


def writable(buffer: bytearray | memoryview) -> CData:
    """Return a `char *` to `buffer` that C may write through.

    Safety: the returned value holds an export of the buffer, so a bytearray cannot be resized (moved) while C may
    still write; a read-only memoryview is refused with BufferError.
    """
    return ffi.from_buffer("char[]", buffer, require_writable=True)


def readable(data: bytes | bytearray | memoryview) -> CData:
    """Return a `char *` to `data` for C to read, without a copy; it keeps `data` alive and unmoved."""
    return ffi.from_buffer("char[]", data)


def own_memory(address: int, length: int) -> bytes:
    """Return a copy of `length` bytes of this process at `address`.

    Safety: the caller knows that all of it is mapped readable and stays so, as the vDSO is; nothing checks it.
    """
    return bytes(ffi.buffer(ffi.cast("char *", address), length))


def address(pointer: CData) -> int:
    """Return the address that `pointer` holds, for structures that carry addresses as integers."""
    return int(ffi.cast("uintptr_t", pointer))


def hold(value: CData, held: list[object]) -> CData:
    """Keep `value` alive as long as `held` lives; a pointer in a C structure keeps nothing alive."""
    held.append(value)
    return value


def string(text: bytes, held: list[object]) -> CData:
    """Return a C string that lives as long as `held`; ValueError for a NUL byte in it."""
    if b"\0" in text:
        raise ValueError(f"a NUL byte in {text!r}")
    return hold(ffi.new("char[]", text), held)


class Strings:
    """A NULL-terminated array of C strings, which are one after the other in one block of memory; it cannot change.

    Raises ValueError for a NUL byte in one of them.
    """

    __slots__ = ("_kept", "pointers")

    def __init__(self, texts: Sequence[bytes]) -> None:
        block = b"\0".join(texts) + b"\0"
        if block.count(b"\0") != max(len(texts), 1):
            raise ValueError(f"a NUL byte in one of {list(texts)!r}")
        memory = ffi.from_buffer("char[]", block)
        place = int(ffi.cast("uintptr_t", memory))
        places = []
        for text in texts:
            places.append(place)
            place += len(text) + 1
        places.append(0)
        words = ffi.new("uintptr_t[]", places)
        self.pointers = ffi.cast("char **", words)
        self._kept = memory, words  # a cast keeps nothing alive


def strings(texts: Sequence[bytes] | Strings, held: list[object]) -> CData:
    """Return the pointers of `Strings`, made here if need be; they live as long as `held`."""
    array = texts if isinstance(texts, Strings) else Strings(texts)
    held.append(array)
    return array.pointers
