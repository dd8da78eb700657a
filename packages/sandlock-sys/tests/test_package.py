"""The package as a whole: the typed face is complete, and what must start fast imports little."""

from __future__ import annotations

import ast
import importlib.resources
import pkgutil
import subprocess
import sys

import pytest

import sandlock_sys
from sandlock_sys._ffi import lib

# Modules on the way from the command line to a confined program: their imports are its start-up time.
LEAN = ["errors", "_call", "_buffers", "landlock", "seccomp", "prctl", "pidfd", "memfd", "openat2", "close_range"]
ALLOWED = "os, errno, time, struct, select, math, __future__"


def test_the_typed_face_names_every_function_and_no_other() -> None:
    tree = ast.parse(importlib.resources.files(sandlock_sys).joinpath("_ffi.pyi").read_text())
    face = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Lib")
    named = {node.name for node in face.body if isinstance(node, ast.FunctionDef)}
    assert named == {name for name in dir(lib) if name.startswith("sl_")}


@pytest.mark.parametrize("module", LEAN)
def test_a_lean_module_imports_only_what_is_cheap(module: str) -> None:
    code = (
        f"import sys, {ALLOWED}; sys.path[:0] = {sys.path!r}; before = set(sys.modules); "
        f"import sandlock_sys.{module}; print(*set(sys.modules) - before)"
    )
    # -S: what a site's .pth files import is not ours.
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.split() if not name.startswith("sandlock_sys")}
    assert imported <= {"_cffi_backend"}


def test_the_guard_program_brings_what_a_compiler_calls_unasked() -> None:
    """Gcc for riscv64 clears and copies structures by call, and there is no libc to find these in."""
    program = importlib.resources.files(sandlock_sys).joinpath("_guard").read_bytes()
    assert {name for name in (b"memset", b"memcpy") if b"\0" + name + b"\0" not in program} == set()


def test_every_module_lists_its_public_names() -> None:
    for info in pkgutil.walk_packages(sandlock_sys.__path__, "sandlock_sys."):
        if info.name.endswith("_ffi"):
            continue
        module = importlib.import_module(info.name)
        assert module.__doc__, info.name
        if not info.ispkg or info.name == "sandlock_sys.proc":
            names = module.__all__
            assert sorted(names) == sorted(set(names)), info.name
            assert all(hasattr(module, name) for name in names), info.name
            assert all(getattr(module, name).__doc__ for name in names if callable(getattr(module, name))), info.name
