"""The tiny program that a restore begins with: it does nothing, and dies with who started it."""

from __future__ import annotations

import os
import struct
import time

from sandlock_arch import Architecture
from sandlock_checkpoint.errors import RestoreError
from sandlock_sys import memfd

__all__ = ["await_stub", "open_stub", "spawn_stub", "stub_program", "waiting_place"]

_BASE = 0x1000_0000
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr, linux/elf.h
_SEGMENT = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_CODE = _BASE + _HEADER.size + _SEGMENT.size
_IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
_EXECUTABLE, _LOAD, _READ_EXECUTE = 2, 1, 5  # ET_EXEC, PT_LOAD, PF_R | PF_X
_PARENT_DEATH_SIGNAL, _SIGKILL = 1, 9  # PR_SET_PDEATHSIG, linux/prctl.h
_MEMFD_FLAGS = 1 | 2  # MFD_CLOEXEC | MFD_ALLOW_SEALING
_PATIENCE_S = 10.0
_ALL_SEALS = 1 | 2 | 4 | 8  # F_SEAL_SEAL, SHRINK, GROW, WRITE


def stub_program(architecture: Architecture) -> bytes:
    """Return an ELF program: ask to be killed with the parent, then wait for nothing, again and again.

    Behind that loop stands a call that the first process of a namespace is left in (`waiting_place`), and then its end.
    """
    code = _loop(architecture) + architecture.encode.syscall() + _call(architecture, "exit_group", 0)
    size = _CODE - _BASE + len(code)
    header = _HEADER.pack(
        _IDENT, _EXECUTABLE, architecture.elf_machine, 1, _CODE, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, 1, 0,
        0, 0
    )  # fmt: skip
    return header + _SEGMENT.pack(_LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, 0x1000) + code


def waiting_place(architecture: Architecture) -> int:
    """Return the address of the instruction in the stub that enters the kernel, and after which the stub ends."""
    return _CODE + len(_loop(architecture))


def _loop(architecture: Architecture) -> bytes:
    code = _call(architecture, "prctl", _PARENT_DEATH_SIGNAL, _SIGKILL, 0, 0, 0)
    again = _CODE + len(code)
    code += _call(architecture, "ppoll", 0, 0, 0, 0, 8)
    return code + architecture.encode.jump(_CODE + len(code), again)


def _call(architecture: Architecture, name: str, *arguments: int) -> bytes:
    abi, encode = architecture.abi, architecture.encode
    registers = [(abi.number_register, architecture.syscalls[name])]
    registers += zip(abi.argument_registers, arguments, strict=False)
    return b"".join(encode.load_immediate(register, value) for register, value in registers) + encode.syscall()


def open_stub(architecture: Architecture) -> int:
    """Return an fd of the program, sealed and close-on-exec, that the caller owns."""
    fd = memfd.create(b"sandlock-restore", _MEMFD_FLAGS)
    try:
        os.write(fd, stub_program(architecture))
        memfd.add_seals(fd, _ALL_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def await_stub(pid: int, program: int) -> None:
    """Wait until the process executes the program: before that, it is still whoever started it.

    Raises:
        RestoreError: it ended, or executes something else for too long.

    """
    wanted = os.fstat(program)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            found = os.stat(f"/proc/{pid}/exe")
        except OSError as error:
            raise RestoreError("spawn", f"process {pid} ended before it executed the stub") from error
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return
        if time.monotonic() > deadline:
            raise RestoreError("spawn", f"process {pid} does not execute the stub")
        time.sleep(0.0005)


def spawn_stub(program: int, channel: int) -> int:
    """Start the program as a child of this process, with `channel` under its own number; return its pid."""
    return os.posix_spawn(
        f"/proc/self/fd/{program}",
        ["sandlock-restore"],
        {},
        # A descriptor duplicated onto itself loses close-on-exec in the child alone.
        file_actions=[(os.POSIX_SPAWN_DUP2, channel, channel)],
    )
