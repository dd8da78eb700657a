"""A process that is being made into another: stopped, traced, and killed should the restorer end or fail."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field

from sandlock_arch import Architecture
from sandlock_arch.call_abi import error_of
from sandlock_checkpoint.errors import RestoreError
from sandlock_checkpoint.inject import Injector, Scratch, find_call
from sandlock_checkpoint.tracing import EXIT_KILL, TRACE_SYSCALLS, wait_event_stop
from sandlock_sys import procmem, ptrace
from sandlock_sys.errors import SyscallError

__all__ = ["Target"]

_TRACE_BIRTHS = 1 << 1 | 1 << 2 | 1 << 3  # PTRACE_O_TRACEFORK, TRACEVFORK, TRACECLONE, 2.5.46
_OPTIONS = EXIT_KILL | TRACE_SYSCALLS | _TRACE_BIRTHS
_TIMEOUT_S = 10.0
_AT_CWD = -100  # AT_FDCWD


@dataclass
class Target:
    """One process under restore.

    Attributes:
        pid: as the restorer sees it.
        architecture: of this host.
        main: injector of the main thread, begun.
        scratch: address of memory for what calls read and write, and its size.
        scratch_size: bytes.
        tids: its threads as the restorer sees them, in the order of the checkpoint.
        injectors: of its threads, begun, in that order.
        own_pid: its pid as it sees it itself.
        numbers: captured thread ids -> those of now, as the process sees them.

    """

    pid: int
    architecture: Architecture
    main: Injector
    scratch: int = 0
    scratch_size: int = 0
    tids: list[int] = field(default_factory=list)
    injectors: list[Injector] = field(default_factory=list)
    own_pid: int = 0
    numbers: dict[int, int] = field(default_factory=dict)

    @classmethod
    def seize(cls, pid: int, architecture: Architecture) -> Target:
        """Take hold of a fresh child: from here on it dies with the restorer."""
        ptrace.seize(pid, _OPTIONS)
        ptrace.interrupt(pid)
        wait_event_stop(pid, _TIMEOUT_S)
        return cls.adopt(pid, architecture)

    @classmethod
    def adopt(cls, pid: int, architecture: Architecture) -> Target:
        """Take a process that is traced already and stands at an event stop."""
        injector = Injector(pid, architecture, find_call(pid, architecture))
        injector.begin()
        return cls(pid, architecture, injector, tids=[pid], injectors=[injector])

    def kill(self) -> None:
        """End it, and wait for that."""
        with contextlib.suppress(ProcessLookupError):
            # Safety: it is our tracee and has not been waited for, so the number is still its own.
            os.kill(self.pid, signal.SIGKILL)

    def call(self, name: str, *arguments: int) -> int:
        """Run a system call in the main thread."""
        return self.main.call(name, *arguments)

    def errno(self, name: str, *arguments: int) -> int:
        """Run a system call in the main thread; return its errno, 0 for success."""
        return error_of(self.main.attempt(name, *arguments))

    def main_scratch(self) -> Scratch:
        """Return memory of its own for one purpose, before `take_scratch`."""
        return Scratch(self.main, self.pid, os.sysconf("SC_PAGE_SIZE") * 4)

    def put(self, data: bytes, offset: int = 0) -> int:
        """Write `data` into the scratch memory; return its address."""
        if offset + len(data) > self.scratch_size:
            raise RestoreError("scratch", f"{len(data)} bytes at {offset} do not fit into {self.scratch_size}")
        procmem.write(self.pid, self.scratch + offset, data)
        return self.scratch + offset

    def get(self, length: int, offset: int = 0) -> bytes:
        """Read the scratch memory."""
        return procmem.read(self.pid, self.scratch + offset, length)

    def open(self, path: bytes, flags: int) -> int:
        """Open a file inside the process, under whatever confines it; return the descriptor there."""
        try:
            return self.call("openat", _AT_CWD, self.put(path + b"\0"), flags | os.O_CLOEXEC, 0)
        except SyscallError as error:
            raise RestoreError(os.fsdecode(path), f"it cannot be opened: {error.strerror}") from error

    def take_scratch(self, address: int, size: int) -> None:
        """Map scratch memory at `address`, which must be free."""
        flags = 0x02 | 0x20 | 0x100000  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE (4.17)
        got = self.call("mmap", address, size, 3, flags, (1 << 64) - 1, 0)
        if got != address:  # before 4.17 the flag is only a hint
            raise RestoreError("scratch", f"the kernel mapped it at {got:#x}, not at {address:#x}")
        self.scratch, self.scratch_size = address, size
