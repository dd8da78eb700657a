"""Register layouts: as large as the kernel says, in its order, and the same after packing and unpacking."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_arch.call_abi import ERESTARTSYS, RESTART_CODES, error_of
from sandlock_arch.errors import LayoutError
from sandlock_arch.registers import NT_PRSTATUS, RegisterSet

WORDS = st.integers(0, (1 << 64) - 1)
PTRACE_TRACEME, PTRACE_CONT, PTRACE_GETREGSET = 0, 7, 0x4204


@pytest.mark.parametrize(("name", "words"), [("x86_64", 27), ("aarch64", 34), ("riscv64", 32)])
def test_general_set_has_the_kernels_size(name: str, words: int) -> None:
    general = sandlock_arch.get(name).registers.general
    assert len(general.names) == len(set(general.names)) == words
    assert general.size == words * 8


@pytest.mark.parametrize(
    ("name", "offsets"),
    [
        # offsetof() in the C structures of each architecture's asm/ptrace.h and asm/user_64.h
        (
            "x86_64",
            {"r15": 0, "rbp": 32, "rax": 80, "rdi": 112, "orig_rax": 120, "rip": 128, "rsp": 152, "fs_base": 168},
        ),
        ("aarch64", {"x0": 0, "x8": 64, "x30": 240, "sp": 248, "pc": 256, "pstate": 264}),
        (
            "riscv64",
            {"pc": 0, "ra": 8, "sp": 16, "tp": 32, "t0": 40, "s0": 64, "a0": 80, "a7": 136, "s2": 144, "t6": 248},
        ),
    ],
)
def test_registers_stand_where_the_kernel_puts_them(name: str, offsets: dict[str, int]) -> None:
    general = sandlock_arch.get(name).registers.general
    assert {register: general.offset(register) for register in offsets} == offsets


def test_named_registers_exist(architecture: Architecture) -> None:
    layout, abi = architecture.registers, architecture.abi
    named = {layout.program_counter, layout.stack_pointer, layout.syscall_number, abi.number_register}
    named |= {*abi.argument_registers, abi.return_register, *abi.callee_saved, *abi.function_arguments}
    named |= {*abi.clobbered_registers, abi.restart_register} | ({abi.restart_source} if abi.restart_source else set())
    assert named <= set(layout.general.names)
    if layout.thread_pointer_note == NT_PRSTATUS:
        assert layout.thread_pointer in layout.general.names
    else:
        (words,) = (regset.words for regset in layout.regsets if regset.note == layout.thread_pointer_note)
        assert words is not None
        assert layout.thread_pointer in words.names
    assert not set(abi.argument_registers) & set(abi.callee_saved)


def test_regsets_are_consistent(architecture: Architecture) -> None:
    regsets = architecture.registers.regsets
    notes = [regset.note for regset in regsets]
    assert len(set(notes)) == len(notes)
    assert NT_PRSTATUS not in notes
    for regset in regsets:
        assert set(regset.covers) <= set(notes)
        if regset.words is not None and regset.size is not None:
            assert regset.words.size == regset.size


@given(name=st.sampled_from(sandlock_arch.names()), data=st.data())
def test_pack_and_unpack_are_opposites(name: str, data: st.DataObject) -> None:
    general = sandlock_arch.get(name).registers.general
    raw = data.draw(st.binary(min_size=general.size, max_size=general.size))
    assert general.pack(general.unpack(raw)) == raw
    values = {register: data.draw(WORDS) for register in general.names}
    assert general.unpack(general.pack(values)) == values


@given(name=st.sampled_from(sandlock_arch.names()), data=st.data(), value=WORDS)
def test_replace_changes_one_register(name: str, data: st.DataObject, value: int) -> None:
    general = sandlock_arch.get(name).registers.general
    raw = data.draw(st.binary(min_size=general.size, max_size=general.size))
    register = data.draw(st.sampled_from(general.names))
    changed = general.replace(raw, {register: value})
    at = general.offset(register)
    assert changed == raw[:at] + value.to_bytes(8, "little") + raw[at + 8 :]


def test_wrong_sizes_names_and_values_are_refused() -> None:
    registers = RegisterSet(("a", "b"))
    with pytest.raises(LayoutError, match="16 bytes, not 15"):
        registers.unpack(bytes(15))
    with pytest.raises(LayoutError, match="missing or unknown: b"):
        registers.pack({"a": 1})
    with pytest.raises(LayoutError, match="missing or unknown: c"):
        registers.pack({"a": 1, "b": 2, "c": 3})
    with pytest.raises(LayoutError, match="no register 'c'"):
        registers.replace(bytes(16), {"c": 1})
    for value in (-1, 1 << 64):
        with pytest.raises(LayoutError, match="register b cannot hold"):
            registers.pack({"a": 0, "b": value})


@pytest.mark.parametrize(
    ("result", "errno"), [(0, 0), (5, 0), (-1, 1), (-4095, 4095), (-4096, 0), ((1 << 64) - 14, 14), (1 << 63, 0)]
)
def test_results_are_told_from_errors(result: int, errno: int) -> None:
    assert error_of(result) == errno


def test_restart_codes_are_errors_no_program_sees() -> None:
    assert all(error_of(-code) == code and code >= ERESTARTSYS for code in RESTART_CODES)


def test_layout_matches_a_stopped_process() -> None:
    """The native layout, read from a real child that stopped itself with kill(2)."""
    architecture = sandlock_arch.native()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    child = os.fork()
    if child == 0:
        libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(child, 0)[1])
    buffer = ctypes.create_string_buffer(1024)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 1024)
    assert libc.ptrace(PTRACE_GETREGSET, child, NT_PRSTATUS, ctypes.addressof(vector)) == 0
    layout, abi = architecture.registers, architecture.abi
    registers = layout.general.unpack(buffer.raw[: vector[1]])
    with open(f"/proc/{child}/maps", encoding="utf-8") as file:
        maps = [(line.split(), [int(part, 16) for part in line.split()[0].split("-")]) for line in file]
    libc.ptrace(PTRACE_CONT, child, None, None)
    assert os.waitpid(child, 0)[1] == 0

    def mapping(address: int) -> list[str]:
        (found,) = (fields for fields, (start, end) in maps if start <= address < end)
        return found

    assert "x" in mapping(registers[layout.program_counter])[1]
    assert mapping(registers[layout.stack_pointer])[-1] == "[stack]"
    assert registers[layout.syscall_number] == architecture.syscalls["kill"]
    assert registers[abi.argument_registers[1]] == signal.SIGSTOP
    assert registers[abi.return_register] == 0
    if layout.thread_pointer_note == NT_PRSTATUS:
        assert "w" in mapping(registers[layout.thread_pointer])[1]
