"""The child's memory: bounded, checked before use, and copied once.

Safety: the request's thread may be killed at any moment and its id given to a process outside. So each function looks
afterwards whether the request still waits, and only then returns: what was read or written was the child's.
"""

from __future__ import annotations

import os
from errno import EFAULT, ENAMETOOLONG, ENOENT, EPERM, ESRCH
from typing import TYPE_CHECKING

from sandlock_notif.errors import Refusal, VanishedError
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from sandlock_notif.request import Request

__all__ = ["PATH_MAX", "READ_MAX", "read", "read_path", "read_string", "write"]

PATH_MAX = 4096  # linux/limits.h; counts the NUL
READ_MAX = 1 << 20  # bytes for one `read`; nothing that a system call points to and we judge is larger


def read(request: Request, address: int, length: int, *, fault: int = EFAULT) -> bytes:
    """Return `length` bytes at `address` of the caller's memory, all of them.

    What was read from `address` before is not read again: a shorter range is a part of that copy, and a longer one
    begins with it. So two readers who know different sizes of one structure see the same one.

    Raises:
        Refusal: `fault` when any of it cannot be read.
        VanishedError: the task no longer waits.
        ValueError: more than READ_MAX bytes; bound it first.

    """
    if not 0 <= length <= READ_MAX:
        raise ValueError(f"{length} bytes are not within 0..{READ_MAX}")
    copy = request.copies.get((address, False))
    if copy is None or len(copy) < length:
        known = copy or b""
        try:
            copy = known + procmem.read(request.tid, address + len(known), length - len(known))
        except SyscallError as error:
            raise _refused(request, error, fault) from error
        except ValueError as error:  # a range past the end of the address space
            raise Refusal(fault) from error
        _still(request)
        request.copies[address, False] = copy
    return copy[:length]


def read_string(request: Request, address: int, limit: int = PATH_MAX) -> bytes:
    """Return the bytes before the NUL at `address`; the same copy when it is read again.

    Raises:
        Refusal: ENAMETOOLONG without a NUL in the first `limit` bytes, EFAULT when the memory ends before one.
        VanishedError: the task no longer waits.

    """
    copy = request.copies.get((address, True))
    if copy is None:
        try:
            copy = procmem.read_string(request.tid, address, limit)
        except SyscallError as error:
            raise _refused(request, error, EFAULT) from error
        except (ValueError, OverflowError) as error:
            raise Refusal(EFAULT) from error
        _still(request)
        request.copies[address, True] = copy
    elif len(copy) >= limit:
        raise Refusal(ENAMETOOLONG)
    return copy


def read_path(request: Request, argument: int) -> bytes:
    """Return the path that an argument points to, without its NUL; bytes, because names are."""
    return read_string(request, request.args[argument], PATH_MAX)


def write(request: Request, address: int, data: bytes) -> None:
    """Write `data` into the caller's memory; nothing is written for a task that no longer waits.

    Read-only pages of its own are written too where the kernel lets a debugger do so; they are the child's.

    Raises:
        Refusal: EFAULT when any of it cannot be written.
        VanishedError: the task no longer waits.

    """
    if not data:
        return
    try:
        memory = procmem.open_memory(request.tid, write=True)
    except SyscallError as error:
        raise _refused(request, error, EFAULT) from error
    try:
        # Safety: the fd stays with the memory it was opened on. If that was an outsider's, because the thread died
        # and its id was given away, then the request waits no longer, and nothing has been written yet.
        _still(request)
        procmem.poke(memory, address, data)
    except SyscallError as error:
        raise Refusal(EFAULT) from error
    except OverflowError as error:  # an address that no file offset reaches
        raise Refusal(EFAULT) from error
    finally:
        os.close(memory)
    _still(request)


def _still(request: Request) -> None:
    if not request.waits():
        raise VanishedError


def _refused(request: Request, error: SyscallError, fault: int) -> Exception:
    """Return what a failed transfer means: the child's bad pointer, its death, or memory that we may not see."""
    if error.errno in (ESRCH, ENOENT) or not request.waits():
        return VanishedError()
    if error.errno in (EFAULT, ENAMETOOLONG):
        return Refusal(fault if error.errno == EFAULT else ENAMETOOLONG)
    # EPERM: not dumpable. ENOMEM and others: ours. Neither may let the call through (NOT-08).
    return Refusal(EPERM, f"the memory of thread {request.tid} cannot be read: {error.strerror}")
