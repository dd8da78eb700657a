"""Run a function under a filter on the real kernel, in a child of its own. Needs nothing but libc through ctypes."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import sandlock_arch

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
NOBODY = 65534


class Outcome(NamedTuple):
    """What became of the child: the function's value, or the signal that ended it."""

    value: Any
    signal: int


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Kernel:
    """System calls by number, with every argument as the 64-bit word that it is."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self.arch = sandlock_arch.native()
        self._kept: list[object] = []

    def call(self, name: str | int, *arguments: int) -> int:
        """Return the value of the call, or minus the errno."""
        number = self.arch.syscalls[name] if isinstance(name, str) else name
        words = [
            ctypes.c_ulong(argument & 0xFFFFFFFFFFFFFFFF) for argument in (*arguments, *[0] * (6 - len(arguments)))
        ]
        value: int = self._libc.syscall(ctypes.c_long(number), *words)
        return -ctypes.get_errno() if value == -1 else value

    def install(self, program: bytes) -> int:
        """Put the filter on this process; return 0 or minus the errno."""
        if self._libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            return -ctypes.get_errno()
        argument = _Program(len(program) // 8, program)
        return self.call("seccomp", SECCOMP_SET_MODE_FILTER, 0, ctypes.addressof(argument))

    def text_addresses(self, *texts: bytes) -> list[int]:
        """Return the addresses of these texts, each with a NUL behind it; they live as long as this object."""
        buffers = [ctypes.create_string_buffer(text) for text in texts]
        self._kept += buffers
        return [ctypes.addressof(buffer) for buffer in buffers]

    def run_code(self, code: bytes) -> int:
        """Run machine code as a function without arguments."""
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        anchor = ctypes.c_char.from_buffer(page)
        result: int = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(anchor))()
        return result

    def confined(self, program: bytes | None, function: Callable[[Kernel], Any], *, as_nobody: bool = False) -> Outcome:
        """Run `function` in a child, under `program` unless that is None; its value comes back as JSON."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if as_nobody and os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(NOBODY, NOBODY, NOBODY)
                    os.setresuid(NOBODY, NOBODY, NOBODY)
                if program is not None:
                    assert self.install(program) == 0
                os.write(writer, json.dumps(function(self)).encode())
                status = 0
            except BaseException as error:  # noqa: BLE001 - the child must not come back into pytest
                os.write(writer, json.dumps(repr(error)).encode())
            finally:
                os._exit(status)
        os.close(writer)
        return _reap(child, reader)


def _reap(child: int, reader: int) -> Outcome:
    deadline = time.monotonic() + 90
    text = b""
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(reader, 65536)
        if not piece:
            break
        text += piece
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return Outcome(None, os.WTERMSIG(status))
    assert os.WEXITSTATUS(status) == 0, f"the child failed: {text.decode()}"
    return Outcome(json.loads(text), 0)


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture(params=["caller", "nobody"])
def as_nobody(request: pytest.FixtureRequest) -> bool:
    """Run once with the identity of the test run and once as an ordinary user, the same if it already is one."""
    return bool(request.param == "nobody")
