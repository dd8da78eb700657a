"""Run code of any architecture as a C function in an emulated process, with a small kernel behind it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import unicorn
from unicorn import arm64_const, riscv_const, x86_const

from sandlock_arch import Architecture

CODE = 0x10_0000
DATA = 0x20_0000
STACK = 0x30_0000
RETURN = 0x40_0000  # where the function returns to, and the emulation ends
SIZE = 0x1_0000  # bytes of each of them
RED_ZONE = 512  # bytes watched below the stack pointer, more than any ABI reserves

EFAULT = 14
EINVAL = 22
ENOSYS = 38

_MODES = {
    "x86_64": (unicorn.UC_ARCH_X86, unicorn.UC_MODE_64, x86_const, "UC_X86_REG_"),
    "aarch64": (unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, arm64_const, "UC_ARM64_REG_"),
    "riscv64": (unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64, riscv_const, "UC_RISCV_REG_"),
}
# In the general set, but not registers of the processor, or not to be filled with noise.
_NOT_NOISE = {"orig_rax", "rip", "cs", "eflags", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs", "pc", "pstate"}


@dataclass
class Kernel:
    """Answers system calls as Linux would; `calls` records them as (number, six arguments)."""

    machine: Machine
    now: tuple[int, int] = (1_700_000_000, 123_456_789)
    calls: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def call(self, number: int, arguments: tuple[int, ...]) -> int:
        """Do system call `number`; return its result or -errno."""
        self.calls.append((number, arguments))
        names = {value: name for name, value in self.machine.architecture.syscalls.items()}
        first, second = arguments[:2]
        match names[number]:
            case "clock_gettime":
                if first & 0xFFFFFFFF == 99:
                    return -EINVAL
                return self._put(second, self.now)
            case "gettimeofday":
                if second and (fault := self._put(second, (0, 0))):
                    return fault
                return self._put(first, (self.now[0], self.now[1] // 1000)) if first else 0
            case "time":
                return (self._put(first, self.now[:1]) if first else 0) or self.now[0]
        return 4711

    def _put(self, address: int, words: tuple[int, ...]) -> int:
        try:
            self.machine.write_words(address, words)
        except unicorn.UcError:
            return -EFAULT
        return 0


@dataclass(frozen=True)
class Outcome:
    """How a function left the machine: its result, signed, and the registers it did not keep."""

    result: int
    changed: frozenset[str]


class Machine:
    """One emulated processor with code, data and stack, and a caller that checks what it gets back."""

    def __init__(self, architecture: Architecture) -> None:
        kind, mode, constants, prefix = _MODES[architecture.name]
        self.architecture = architecture
        self.kernel = Kernel(self)
        self._uc = unicorn.Uc(kind, mode)
        self._ids = {
            name: getattr(constants, prefix + name.upper())
            for name in architecture.registers.general.names
            if hasattr(constants, prefix + name.upper())
        }
        for start in (CODE, DATA, STACK, RETURN):
            self._uc.mem_map(start, SIZE)
        if architecture.name == "x86_64":
            self._uc.hook_add(unicorn.UC_HOOK_INSN, self._x86_syscall, None, 1, 0, x86_const.UC_X86_INS_SYSCALL)
        else:
            self._uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self._noise = random.Random(architecture.name)  # noqa: S311 - noise that repeats, no secret

    def register(self, name: str) -> int:
        """Return a register, unsigned."""
        value: int = self._uc.reg_read(self._ids[name])
        return value

    def set_register(self, name: str, value: int) -> None:
        """Set a register."""
        self._uc.reg_write(self._ids[name], value & (1 << 64) - 1)

    def write_words(self, address: int, words: tuple[int, ...]) -> None:
        """Write signed 64-bit words; raise UcError where nothing is mapped."""
        data = b"".join(word.to_bytes(8, "little", signed=True) for word in words)
        self._uc.mem_write(address, data)

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write bytes where memory is mapped."""
        self._uc.mem_write(address, data)

    def read_words(self, address: int, count: int) -> tuple[int, ...]:
        """Read signed 64-bit words."""
        data = bytes(self._uc.mem_read(address, 8 * count))
        return tuple(int.from_bytes(data[at : at + 8], "little", signed=True) for at in range(0, len(data), 8))

    def run(self, code: bytes, registers: Mapping[str, int] | None = None, *, at: int = CODE) -> None:
        """Run plain code from its first to behind its last byte, with the given registers."""
        self._put_code(at, code)
        for name, value in (registers or {}).items():
            self.set_register(name, value)
        self._uc.emu_start(at, at + len(code), timeout=5_000_000, count=10_000)

    def run_fragment(self, code: bytes, registers: Mapping[str, int], *, start: int, end: int) -> None:
        """Run the bytes of `code` from offset `start` until the processor reaches offset `end`."""
        self._put_code(CODE, code)
        for name, value in registers.items():
            self.set_register(name, value)
        self._uc.emu_start(CODE + start, CODE + end, timeout=5_000_000, count=1_000)
        assert self.register(self.architecture.registers.program_counter) == CODE + end

    def call(self, code: bytes, *arguments: int, at: int = CODE, entry: int | None = None, frame: int = 0) -> Outcome:
        """Call `code`, written at `at`, as the C function that starts at `entry` (`at` if None).

        Every general register and the memory below the stack pointer hold noise before; memory below must be the
        same after, but for the `frame` bytes nearest to the stack pointer, which must be where a return leaves it.
        """
        abi = self.architecture.abi
        self._put_code(at, code)
        before = {name: self._noise.getrandbits(64) for name in self._ids if name not in _NOT_NOISE}
        before |= {name: value & (1 << 64) - 1 for name, value in zip(abi.function_arguments, arguments, strict=False)}
        stack = STACK + SIZE // 2
        pointer = self.architecture.registers.stack_pointer
        before[pointer] = stack
        after_return = stack
        if self.architecture.name == "x86_64":
            self._uc.mem_write(stack, RETURN.to_bytes(8, "little"))
            after_return += 8
        else:
            before["ra" if self.architecture.name == "riscv64" else "x30"] = RETURN
        for name, value in before.items():
            self.set_register(name, value)
        below = self._noise.randbytes(RED_ZONE)
        self._uc.mem_write(stack - RED_ZONE, below)

        self._uc.emu_start(at if entry is None else entry, RETURN, timeout=5_000_000, count=10_000)

        assert self.register(self.architecture.registers.program_counter) == RETURN, "the function did not return"
        kept = RED_ZONE - frame
        assert bytes(self._uc.mem_read(stack - RED_ZONE, kept)) == below[:kept], "the function used the stack"
        assert self.register(pointer) == after_return
        before[pointer] = after_return
        changed = {name for name, value in before.items() if self.register(name) != value}
        result = self.register(abi.return_register)
        return Outcome(result - (1 << 64) if result >> 63 else result, frozenset(changed - {abi.return_register}))

    def _put_code(self, at: int, code: bytes) -> None:
        self._uc.mem_write(at, code)
        # Unicorn keeps what it translated, and does not notice that the code under it has changed.
        self._uc.ctl_remove_cache(at, at + len(code))

    def _syscall(self) -> None:
        abi = self.architecture.abi
        number = self.register(abi.number_register)
        arguments = tuple(self.register(name) for name in abi.argument_registers)
        self.set_register(abi.return_register, self.kernel.call(number, arguments))
        for name in abi.clobbered_registers:
            self.set_register(name, self._noise.getrandbits(64))

    def _x86_syscall(self, _uc: unicorn.Uc, _data: object) -> None:
        self._syscall()

    def _interrupt(self, uc: unicorn.Uc, number: int, _data: object) -> None:
        # QEMU's exception numbers: EXCP_SWI on arm, RISCV_EXCP_U_ECALL and its siblings of other privilege on riscv.
        calls = (2,) if self.architecture.name == "aarch64" else (8, 9, 11)
        if number not in calls:
            uc.emu_stop()
            return
        self._syscall()
