"""The frame that brings a thread back, given to a Linux of its architecture: every register is what the frame says.

A program of a few instructions makes a call as an injected one is made, and returns into rt_sigreturn(2), by code as it
is found in processes. The frame is in its memory, and leads to code that ends with the value of one register.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import sandlock_arch
from sandlock_arch import Architecture

BASE = 0x40_0000
MEMORY = 0x1_0000  # of the program, its frame near the end
EMULATED = [
    pytest.param(name, marks=pytest.mark.needs(f"command:qemu-{name}"), id=name) for name in ("aarch64", "riscv64")
]
# To end with the low byte of what the frame has: the status goes into the first argument, exit_group(2) is called.
ENDS = {
    "aarch64": {
        "x19": "e00313aa",  # mov x0, x19
        "v7": "e000669e",  # fmov x0, d7
    },
    "riscv64": {
        "s3": "13850900",  # mv a0, s3
        "f7": "538503e2",  # fmv.x.d a0, f7
    },
}
VALUES = {"x19": 201, "v7": 107, "s3": 202, "f7": 117}


def program(architecture: Architecture, ending: bytes, frame_at: int, calling: dict[str, int]) -> bytes:
    """The code: registers for the call, the call that returns, what it returns to, and how all ends."""
    encode, abi = architecture.encode, architecture.abi
    code = encode.load_immediate(abi.number_register, architecture.syscalls["getpid"])
    for name, value in calling.items():
        if name not in {"pstate", "sp"}:
            code += encode.load_immediate(name, value)
    code += STACKS[architecture.name](architecture, frame_at)
    rescue = architecture.rescue
    assert rescue is not None
    return code + rescue.CALL_AND_RETURN[-1] + rescue.SIGNAL_RETURN[0] + ending


def stack_of_arm(architecture: Architecture, value: int) -> bytes:
    return architecture.encode.load_immediate("x9", value) + bytes.fromhex("3f010091")  # mov sp, x9


def stack_of_riscv(architecture: Architecture, value: int) -> bytes:
    return architecture.encode.load_immediate("sp", value)


STACKS = {"aarch64": stack_of_arm, "riscv64": stack_of_riscv}


def executable(architecture: Architecture, memory: bytes) -> bytes:
    """A static ELF file of one segment, which begins at its first byte behind the headers."""
    size = 64 + 56
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    flags = 4 if architecture.name == "riscv64" else 0  # EF_RISCV_FLOAT_ABI_DOUBLE
    head += struct.pack(
        "<HHIQQQIHHHHHH", 2, architecture.elf_machine, 1, BASE + size, 64, 0, flags, 64, 56, 1, 0, 0, 0
    )  # ET_EXEC
    head += struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size + len(memory), size + len(memory), 0x1000)
    return head + memory


@pytest.mark.parametrize("name", EMULATED)
@pytest.mark.parametrize("kind", ["general", "floating"])
def test_rt_sigreturn_takes_every_register_from_the_frame(name: str, kind: str, tmp_path: Path) -> None:
    architecture = sandlock_arch.get(name)
    rescue = architecture.rescue
    assert rescue is not None
    register, read = list(ENDS[name].items())[kind == "floating"]
    abi = architecture.abi
    ending = bytes.fromhex(read) + abi.syscall_instruction
    names = architecture.registers.general.names
    start, stack = BASE + 64 + 56, BASE + MEMORY

    def laid(signal_return: int, end: int) -> tuple[int, bytes, dict[str, int]]:
        values = {one: 3 * at for at, one in enumerate(names)} | {"sp": stack, "pc": end, "pstate": 0}
        values |= {abi.number_register: architecture.syscalls["exit_group"]}
        values |= {one: value for one, value in VALUES.items() if one in names}
        general = architecture.registers.general.pack({one: values[one] for one in names})
        prefix, width = ("v", 16) if name == "aarch64" else ("f", 8)
        floating = b"".join(VALUES.get(f"{prefix}{at}", 0).to_bytes(width, "little") for at in range(32))
        frame = rescue.build(general, {2: floating + bytes(width)}, 0, signal_return, -1)
        assert frame is not None
        return frame.address, frame.data, dict(frame.calling)

    code, signal_return, end = b"", start, start
    for _ in range(2):  # once to know the lengths
        at, data, calling = laid(signal_return, end)
        code = program(architecture, ending, at, calling)
        end = start + len(code) - len(ending)
        signal_return = end - len(rescue.SIGNAL_RETURN[0])
    at, data, calling = laid(signal_return, end)
    assert len(program(architecture, ending, at, calling)) == len(code)
    code = program(architecture, ending, at, calling)
    memory = code.ljust(at - start, b"\0") + data
    file = tmp_path / "program"
    file.write_bytes(executable(architecture, memory.ljust(MEMORY, b"\0")))
    file.chmod(0o755)
    done = subprocess.run([shutil.which(f"qemu-{name}") or "", file], check=False, timeout=60, capture_output=True)
    assert done.returncode == VALUES[register], done.stderr
