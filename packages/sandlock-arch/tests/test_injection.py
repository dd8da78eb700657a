"""What a tracer does to run a system call in a thread, done on an emulated processor of each architecture."""

from __future__ import annotations

import random

from arch_emulator import CODE, DATA, STACK, Machine

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_arch.call_abi import ERESTARTSYS
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


def test_the_rescue_code_calls_and_comes_back() -> None:
    """x86_64: an injected call returns to the frame's first word, and from there rt_sigreturn is called."""
    machine = Machine(sandlock_arch.get("x86_64"))
    code = sigframe.CALL_AND_RETURN[0]
    for pattern in sigframe.SIGNAL_RETURN:
        machine.kernel.calls.clear()
        body = code + pattern
        stack = STACK + 0x1000
        machine.write_words(stack, (CODE + len(code),))
        registers = {"rax": 39, "rsp": stack, "rdi": 1, "rsi": 2, "rdx": 3, "r10": 4, "r8": 5, "r9": 6}
        machine.run_fragment(body, registers, start=0, end=len(body))
        assert machine.kernel.calls[0] == (39, (1, 2, 3, 4, 5, 6))
        assert machine.kernel.calls[1][0] == 15  # rt_sigreturn
        assert machine.register("rsp") == stack + 8  # just behind the return address: where the kernel looks


def test_the_frame_holds_the_registers_and_lies_below_the_red_zone() -> None:
    architecture = sandlock_arch.get("x86_64")
    general = architecture.registers.general
    values = {name: number * 1_000_003 for number, name in enumerate(general.names)}
    values |= {"rsp": STACK, "rip": CODE + 2, "cs": 0x33, "ss": 0x2B, "orig_rax": WORD}
    vector = bytearray(2696)
    vector[464:472] = (0xE7).to_bytes(8, "little")
    frame = sigframe.build(general.pack(values), bytes(vector), 0b1010, DATA, -1)
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
    again = sigframe.build(interrupted, bytes(vector), 0, DATA, -1)
    assert int.from_bytes(again.data[48 + 16 * 8 : 56 + 16 * 8], "little") == CODE  # rip: at the instruction again
    assert int.from_bytes(again.data[48 + 13 * 8 : 56 + 13 * 8], "little") == 0  # rax: the number of read
