"""Memory of another process: many ranges in one call, and exact reports of where it stopped (process_vm_readv(2)).

All functions need PTRACE_MODE_ATTACH to the process (ptrace(2)) and refuse with EPERM otherwise.
Safety: a pid may be reused. Hold a pidfd of the process, or be its tracer or parent, or check the notification id
afterwards; what was read counts only if the process is still the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import EFAULT, EIO
from struct import pack

from sandlock_sys._buffers import readable, writable
from sandlock_sys._call import refusal
from sandlock_sys._ffi import ffi, lib
from sandlock_sys.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_sys._ffi import CData

__all__ = [
    "Stop",
    "Transfer",
    "open_memory",
    "peek",
    "poke",
    "read",
    "read_ranges",
    "read_string",
    "write",
    "write_ranges",
]


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a transfer ended early.

    Attributes:
        index: number of the range in the list.
        address: the first byte that was not moved, in the other process.
        errno: why: EFAULT for unmapped or protected memory, ESRCH for a process that is gone, EPERM, ...

    """

    index: int
    address: int
    errno: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a transfer came: `done` bytes in order of the ranges, and `stop`, None when that was all."""

    done: int
    stop: Stop | None


def read_ranges(pid: int, ranges: Sequence[tuple[int, int]], into: bytearray | memoryview) -> Transfer:
    """Read every `(address, length)` of the process, one after the other, into one writable buffer.

    Lists of any length are cut into the kernel's maximum of 1024 and transfers of any size are continued, in C.
    Bytes of `into` behind `done` are undefined.

    Raises:
        ValueError: the ranges do not fit into the buffer, or one is not within 0..2^64.

    """
    packed = _pack(ranges, len(into))
    progress = ffi.new("struct sl_procmem_progress *")
    result = lib.sl_procmem_read(pid, packed, len(ranges), writable(into), progress)
    return _transfer(ranges, result, progress)


def write_ranges(pid: int, ranges: Sequence[tuple[int, int]], data: bytes | bytearray | memoryview) -> Transfer:
    """Write `data` to every `(address, length)` of the process, one after the other; as `read_ranges`.

    Pages that the process itself may not write are refused with EFAULT; `poke` is for those.
    """
    packed = _pack(ranges, len(data))
    progress = ffi.new("struct sl_procmem_progress *")
    result = lib.sl_procmem_write(pid, packed, len(ranges), readable(data), progress)
    return _transfer(ranges, result, progress)


def read(pid: int, address: int, length: int) -> bytes:
    """Return `length` bytes at `address`, all of them.

    Raises:
        SyscallError: anything is not readable; `.detail` names the first such address.

    """
    memory = bytearray(length)
    transfer = read_ranges(pid, [(address, length)], memory)
    if transfer.stop is not None:
        raise _refused("process_vm_readv", pid, transfer.stop)
    return bytes(memory)


def write(pid: int, address: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` at `address`.

    Raises:
        SyscallError: anything is not writable; `.detail` names the first such address, what is before it was written.

    """
    transfer = write_ranges(pid, [(address, len(data))], data)
    if transfer.stop is not None:
        raise _refused("process_vm_writev", pid, transfer.stop)


def read_string(pid: int, address: int, limit: int = 4096) -> bytes:
    """Return the bytes at `address` before the first NUL, which must be among the first `limit` bytes.

    It is read page by page, so one that ends just before an unmapped page is read whole.

    Raises:
        SyscallError: ENAMETOOLONG without a NUL within `limit` (PATH_MAX counts it too), EFAULT when the memory ends
            before one, or the refusal of the call.

    """
    memory = bytearray(limit)
    length = lib.sl_procmem_string(pid, address, writable(memory), limit)
    if length < 0:
        raise SyscallError("process_vm_readv", -length, f"pid {pid}, string at {address:#x}, at most {limit} bytes")
    return bytes(memory[:length])


def open_memory(pid: int, *, write: bool = False) -> int:
    """Open /proc/PID/mem and return its fd, close-on-exec, that the caller owns; for `peek` and `poke`.

    The fd stays with this process image: after its exec or exit, reads return nothing, never another process.
    """
    try:
        return os.open(f"/proc/{pid}/mem", (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError("open", error.errno or EIO, f"/proc/{pid}/mem") from None


def peek(memory: int, address: int, length: int) -> bytes:
    """Return `length` bytes at `address` through /proc/PID/mem: also of pages the process itself may not read.

    Raises:
        SyscallError: EIO when not all of it is mapped, or the process is gone.

    """
    data = b""
    while len(data) < length:
        try:
            part = os.pread(memory, length - len(data), address + len(data))
        except OSError as error:
            raise SyscallError("pread", error.errno or EIO, f"/proc/PID/mem at {address + len(data):#x}") from None
        if not part:
            raise SyscallError("pread", EIO, f"/proc/PID/mem at {address + len(data):#x}: the process is gone")
        data += part
    return data


def poke(memory: int, address: int, data: bytes) -> None:
    """Write `data` at `address` through /proc/PID/mem: also to pages the process itself may not write.

    A private read-only page is copied, as for a debugger's breakpoint; the file behind it never changes. Hardened
    kernels (proc_mem.force_override, 6.12) allow this only to the tracer, or refuse it.

    Raises:
        SyscallError: EIO when not all of it is mapped, or the process is gone.

    """
    done = 0
    while done < len(data):
        try:
            count = os.pwrite(memory, data[done:], address + done)
        except OSError as error:
            raise SyscallError("pwrite", error.errno or EIO, f"/proc/PID/mem at {address + done:#x}") from None
        if not count:
            raise SyscallError("pwrite", EIO, f"/proc/PID/mem at {address + done:#x}: the process is gone")
        done += count


def _pack(ranges: Sequence[tuple[int, int]], capacity: int) -> bytes:
    total = sum(length for _, length in ranges)
    if total > capacity:
        # The bound that keeps C inside the buffer.
        raise ValueError(f"the ranges have {total} bytes, the buffer {capacity}")
    for address, length in ranges:
        if address < 0 or length < 0 or address + length > 1 << 64:
            raise ValueError(f"not a range of memory: ({address:#x}, {length:#x})")
    return pack(f"={2 * len(ranges)}Q", *[number for pair in ranges for number in pair])


def _transfer(ranges: Sequence[tuple[int, int]], result: int, progress: CData) -> Transfer:
    error = refusal(result)
    if not error:
        return Transfer(progress.done, None)
    index = progress.index
    return Transfer(progress.done, Stop(index, ranges[index][0] + progress.offset, error))


def _refused(call: str, pid: int, stop: Stop) -> SyscallError:
    where = f" at {stop.address:#x}" if stop.errno == EFAULT else ""
    return SyscallError(call, stop.errno, f"pid {pid}{where}")
