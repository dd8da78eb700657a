"""What a tracer does to run a system call in a thread, done on an emulated processor of each architecture."""

from __future__ import annotations

import random
import struct

import pytest
from arch_emulator import CODE, DATA, STACK, Machine

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_arch.aarch64 import sigframe as arm_frame
from sandlock_arch.call_abi import ERESTARTSYS
from sandlock_arch.rescue import Frame, Rescue
from sandlock_arch.riscv64 import sigframe as riscv_frame
from sandlock_arch.x86_64 import sigframe

WORD = (1 << 64) - 1


def test_a_call_is_made_by_the_instruction_alone(architecture: Architecture, machine: Machine) -> None:
    """Number and arguments arrive, the result comes back, and only what the table names has changed."""
    abi, layout = architecture.abi, architecture.registers
    noise = random.Random(4711)  # noqa: S311 - noise that repeats, no secret
    registers = {name: noise.getrandbits(63) for name in (*abi.argument_registers, *abi.callee_saved)}
    registers |= {abi.number_register: architecture.syscalls["getppid"], layout.stack_pointer: STACK}
    code = abi.syscall_instruction
    machine.run_fragment(code, registers, start=0, end=len(code))
    (call,) = machine.kernel.calls
    assert call == (architecture.syscalls["getppid"], tuple(registers[name] for name in abi.argument_registers))
    assert machine.register(abi.return_register) == 4711
    free = {abi.return_register, *abi.clobbered_registers}
    for name, value in registers.items():
        assert name in free or machine.register(name) == value, name


def test_an_interrupted_call_is_made_again_from_the_instruction(architecture: Architecture, machine: Machine) -> None:
    """A thread that is put back to `restart_register` and the instruction makes the same call."""
    abi = architecture.abi
    arguments = {name: 100 + at for at, name in enumerate(abi.argument_registers)}
    first = arguments | {abi.number_register: architecture.syscalls["read"]}
    code = abi.syscall_instruction
    machine.run_fragment(code, first, start=0, end=len(code))
    again = {abi.restart_register: first[abi.restart_register]}
    machine.run_fragment(code, again, start=0, end=len(code))
    assert machine.kernel.calls[0] == machine.kernel.calls[1]


def test_the_instruction_is_found_at_a_place_it_can_start(architecture: Architecture) -> None:
    abi = architecture.abi
    assert len(abi.syscall_instruction) % abi.instruction_alignment == 0
    assert abi.instruction_alignment == {"x86_64": 1, "aarch64": 4, "riscv64": 2}[architecture.name]


def test_signal_actions_have_the_kernels_shape(architecture: Architecture) -> None:
    """Arch headers define SA_RESTORER on x86_64 and aarch64, not on riscv64."""
    assert architecture.abi.signal_restorer == (architecture.name != "riscv64")
    assert architecture.abi.packed_epoll_event == (architecture.name == "x86_64")
    assert architecture.abi.never_restarted <= architecture.syscalls.keys()


def rescue_of(architecture: Architecture) -> Rescue:
    assert architecture.rescue is not None
    return architecture.rescue


def frame_of(architecture: Architecture, changed: dict[str, int], signal_return: int, call: int = -1) -> Frame:
    """The frame of a thread with its own number in each register, but for those that are said."""
    names = architecture.registers.general.names
    values = {name: 1009 * number for number, name in enumerate(names)} | changed
    sets = {note: SETS[note] for note in rescue_of(architecture).NOTES}
    frame = rescue_of(architecture).build(
        architecture.registers.general.pack(values), sets, 0b1010, signal_return, call
    )
    assert frame is not None
    return frame


def test_the_rescue_code_calls_and_comes_back(architecture: Architecture, machine: Machine) -> None:
    """An injected call returns to the code that calls rt_sigreturn, with the stack where the kernel looks."""
    rescue, abi = rescue_of(architecture), architecture.abi
    pointer = architecture.registers.stack_pointer
    for calling in rescue.CALL_AND_RETURN:
        for returning in rescue.SIGNAL_RETURN:
            machine.kernel.calls.clear()
            frame = frame_of(architecture, {pointer: STACK + 0x8000}, CODE + len(calling))
            machine.write_bytes(frame.address, frame.data)
            registers = {name: 1 + at for at, name in enumerate(abi.argument_registers)}
            registers |= {abi.number_register: architecture.syscalls["getpid"]}
            registers |= {name: value for name, value in frame.calling.items() if name != "pstate"}
            body = calling + returning
            machine.run_fragment(body, registers, start=0, end=len(body))
            assert machine.kernel.calls[0] == (architecture.syscalls["getpid"], (1, 2, 3, 4, 5, 6))
            assert machine.kernel.calls[1][0] == architecture.syscalls["rt_sigreturn"]
            assert machine.register(pointer) == frame.going_back[pointer]
            assert frame.going_back[architecture.registers.program_counter] == CODE + len(calling)


# By NT_*: what each kind of set looks like, with something to know it again by.
SETS = {
    0x202: bytes(464) + (0xE7).to_bytes(8, "little") + bytes(2696 - 472),  # xstate
    2: bytes(range(256)) + bytes(264 - 256),  # fp, as riscv64 has it
    0x405: struct.pack("<IIHHHH", 16, 16, 16, 16, 0, 0),  # SVE: not in use
    0x901: struct.pack("<5Q", 0, 2, 3, 4, 16) + bytes(range(256)) * 2,  # V: 16 bytes in each register
}


def test_a_frame_of_aarch64_is_as_the_kernel_reads_it() -> None:
    """struct rt_sigframe; the offsets are what a compiler says of asm/sigcontext.h and ucontext.h."""
    architecture = sandlock_arch.get("aarch64")
    floating = bytes(range(256)) * 2 + b"FPSRFPCR" + bytes(8)
    values = {name: 1_000_003 * at for at, name in enumerate(architecture.registers.general.names)}
    values |= {"sp": STACK + 0x4321, "pc": CODE, "pstate": 0x60000C00}
    general = architecture.registers.general.pack(values)
    state = bytes(range(1, 205)) * 6  # 32 Z registers of 32 bytes, 16 P and FFR of 4: 1,092 bytes
    sve = struct.pack("<IIHHHH", 16 + 1092 + 8, 16 + 1092 + 8, 32, 32, 1, 0) + state[: 1092 + 8]
    for sets, second in (({2: floating}, 0), ({2: floating, 0x405: sve}, 0x53564501)):
        frame = arm_frame.build(general, sets, 0b1010, DATA, -1)
        assert frame is not None
        assert len(frame.data) == 4688
        assert frame.address % 16 == 0
        assert frame.address + len(frame.data) <= values["sp"]
        assert word(frame.data, 168) == 0b1010
        assert struct.unpack_from("<I", frame.data, 128 + 16 + 8)[0] == 0x7F
        assert frame.data[304 + 8 : 304 + 8 + len(general)] == general
        assert struct.unpack_from("<II", frame.data, 304 + 288) == (0x46508001, 528)
        assert frame.data[304 + 288 + 8 : 304 + 288 + 528] == b"FPSRFPCR" + floating[:512]
        assert word(frame.data, 304 + 288 + 528) & 0xFFFFFFFF == second
        if second:
            magic, size, length = struct.unpack_from("<IIH", frame.data, 304 + 288 + 528)
            assert (magic, size, length) == (second, 1120, 32)
            assert frame.data[304 + 288 + 528 + 16 :][:1092] == state[:1092]
            assert word(frame.data, 304 + 288 + 528 + size) == 0  # the list ends
        assert frame.calling == {"sp": frame.address, "pstate": 0x60000000, "x30": DATA}
        assert frame.going_back["pc"] == DATA
    assert arm_frame.build(general, {}, 0, DATA, -1) is None


def test_a_frame_of_riscv64_is_as_the_kernel_reads_it() -> None:
    """struct rt_sigframe, the vector state behind it, and the header that ends it."""
    architecture = sandlock_arch.get("riscv64")
    values = {name: 1_000_003 * at for at, name in enumerate(architecture.registers.general.names)}
    values |= {"sp": STACK + 0x4321}
    general = architecture.registers.general.pack(values)
    for sets in ({2: SETS[2]}, {2: SETS[2], 0x901: SETS[0x901]}):
        frame = riscv_frame.build(general, sets, 0b1010, DATA, -1)
        assert frame is not None
        assert frame.address % 16 == 0
        assert frame.address + len(frame.data) <= values["sp"]
        assert word(frame.data, 168) == 0b1010
        assert frame.data[304 : 304 + 256] == general
        assert frame.data[560 : 560 + 264] == SETS[2]
        assert frame.data[560 + 516 : 560 + 520] == bytes(4)
        assert frame.data[-8:] == bytes(8)
        if 0x901 in sets:
            assert struct.unpack_from("<II", frame.data, 1080) == (0x53465457, 8 + 48 + 512)
            assert frame.data[1088 : 1088 + 40] == SETS[0x901][:40]
            assert word(frame.data, 1088 + 40) == frame.address + 1136
            assert frame.data[1136 : 1136 + 512] == SETS[0x901][40:]
            assert len(frame.data) == 1136 + 512 + 8
        else:
            assert len(frame.data) == 1088


@pytest.mark.parametrize("name", ["aarch64", "riscv64"])
def test_a_call_that_was_interrupted_with_time_left_is_made_again_by_its_own_number(name: str) -> None:
    """rt_sigreturn drops what restart_syscall(2) would go on with."""
    architecture = sandlock_arch.get(name)
    again, number = architecture.syscalls["restart_syscall"], architecture.abi.number_register
    at = 304 + (8 if name == "aarch64" else 0) + 8 * architecture.registers.general.names.index(number)
    pointer = {architecture.registers.stack_pointer: STACK + 0x8000, number: again}
    for call, found in ((-1, again), (115, 115)):
        assert word(frame_of(architecture, pointer, DATA, call).data, at) == found


def word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def test_the_frame_holds_the_registers_and_lies_below_the_red_zone() -> None:
    architecture = sandlock_arch.get("x86_64")
    general = architecture.registers.general
    values = {name: number * 1_000_003 for number, name in enumerate(general.names)}
    values |= {"rsp": STACK, "rip": CODE + 2, "cs": 0x33, "ss": 0x2B, "orig_rax": WORD}
    vector = bytearray(2696)
    vector[464:472] = (0xE7).to_bytes(8, "little")
    frame = sigframe.build(general.pack(values), {0x202: bytes(vector)}, 0b1010, DATA, -1)
    assert frame is not None
    assert frame.address + len(frame.data) <= STACK - architecture.abi.red_zone
    assert frame.data[:8] == DATA.to_bytes(8, "little")
    context = {name: int.from_bytes(frame.data[48 + 8 * at : 56 + 8 * at], "little") for at, name in enumerate(
        "r8 r9 r10 r11 r12 r13 r14 r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags".split()
    )}  # fmt: skip
    assert context == {name: values[name] for name in context}
    state = int.from_bytes(frame.data[48 + 23 * 8 : 56 + 23 * 8], "little")
    assert state % 64 == 0
    area = frame.data[state - frame.address :]
    assert area[464:468] == b"SXPF"
    assert area[-4:] == b"EXPF"
    interrupted = general.pack(values | {"orig_rax": 0, "rax": -ERESTARTSYS & WORD})
    again = sigframe.build(interrupted, {0x202: bytes(vector)}, 0, DATA, -1)
    assert again is not None
    assert sigframe.build(interrupted, {}, 0, DATA, -1) is None
    assert int.from_bytes(again.data[48 + 16 * 8 : 56 + 16 * 8], "little") == CODE  # rip: at the instruction again
    assert int.from_bytes(again.data[48 + 13 * 8 : 56 + 13 * 8], "little") == 0  # rax: the number of read
