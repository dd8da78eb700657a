"""Architectures by name, their facts, and what a launch pays for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_arch.errors import ArchError, UnknownArchitectureError

# Modules a launch may load through this package: see sandlock_arch.model.
LEAN = {"sandlock_arch", "sandlock_arch.model", "sandlock_arch.registry"}


def test_native_is_what_uname_says() -> None:
    assert sandlock_arch.native().name == os.uname().machine
    assert sandlock_arch.native() is sandlock_arch.get(os.uname().machine)


@pytest.mark.parametrize(
    ("name", "machine", "audit"),
    [("x86_64", 62, 0xC000003E), ("aarch64", 183, 0xC00000B7), ("riscv64", 243, 0xC00000F3)],
)
def test_tokens_are_the_kernels(name: str, machine: int, audit: int) -> None:
    architecture = sandlock_arch.get(name)
    assert (architecture.name, architecture.elf_machine, architecture.audit_arch) == (name, machine, audit)


def test_only_x86_64_shares_its_token_with_another_abi() -> None:
    bits = {name: sandlock_arch.get(name).foreign_bit for name in sandlock_arch.names()}
    assert bits == {"x86_64": 0x4000_0000, "aarch64": 0, "riscv64": 0}


@pytest.mark.parametrize("name", ["arm64", "", "x86_64.arch", "../x86_64", "i686"])
def test_unknown_name_is_an_error_that_lists_the_known(name: str) -> None:
    with pytest.raises(UnknownArchitectureError, match="x86_64, aarch64, riscv64") as caught:
        sandlock_arch.get(name)
    assert caught.value.name == name
    assert isinstance(caught.value, ArchError | LookupError)


def test_parts_are_loaded_once(architecture: Architecture) -> None:
    assert architecture.abi is architecture.abi
    assert architecture.registers is architecture.registers
    assert architecture.encode is architecture.encode
    assert architecture.vdso_stubs is architecture.vdso_stubs


def test_a_launch_imports_facts_and_nothing_else() -> None:
    script = (
        "import sys; before = set(sys.modules); import sandlock_arch; name = sandlock_arch.native().name\n"
        "print(name, *sorted(set(sys.modules) - before))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout
    name, *imported = output.split()
    folder = f"sandlock_arch.{name}"
    assert set(imported) - {"__future__"} == LEAN | {folder, f"{folder}.arch", f"{folder}.syscalls"}
