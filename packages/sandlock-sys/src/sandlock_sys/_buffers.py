"""Memory shared with C: the one place that touches cffi's buffers.

Input structures go down as `bytes` made by `struct` (cffi passes their address and the caller's reference keeps them
alive for the call). What the kernel writes goes into a `bytearray` wrapped here.
"""

from __future__ import annotations

from sandlock_sys._ffi import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_sys._ffi import CData

__all__ = ["NULL", "address", "own_memory", "readable", "writable"]

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
