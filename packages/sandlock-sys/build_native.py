"""Hatchling hook: compile the cffi extension (abi3) and the static guard program.

Every `_csrc/NAME.cdef` is the face of `_csrc/NAME.c`; adding a call family is adding those files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cffi import FFI
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
PACKAGE = ROOT / "src" / "sandlock_sys"
SOURCES = PACKAGE / "_csrc"
EXTENSION = PACKAGE / "_ffi.abi3.so"
GUARD = PACKAGE / "_guard"
GUARD_SOURCE = "guard_main"  # a program of its own, not part of the extension
OLDEST_PYTHON = "0x030b0000"  # requires-python: the abi3 level that the wheel promises

WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
HARDENING = ["-O2", "-fstack-clash-protection", "-D_FORTIFY_SOURCE=2"]
# Everything is bound at load: between clone and exec no call may go through the dynamic linker, which takes locks.
LINKING = ["-Wl,-z,relro", "-Wl,-z,now"]
# The guard has no libc: nothing may be called that the compiler would take from one.
FREESTANDING = ["-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin", "-fno-stack-protector",
                "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]  # fmt: skip


class NoCompilerError(RuntimeError):
    """There is no usable C compiler; the message says what to install."""


def compiler() -> list[str]:
    """The C compiler's command: $CC, or what this Python was built with, or cc."""
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    raise NoCompilerError(
        "sandlock-sys needs a C compiler to build, and none was found: "
        "install one (Debian: apt install gcc python3-dev) or set CC, or install the wheel instead"
    )


def python_include() -> Path:
    """The folder with Python.h."""
    folder = Path(sysconfig.get_paths()["include"])
    if not (folder / "Python.h").exists():
        raise NoCompilerError(
            f"sandlock-sys needs Python's headers to build, and {folder}/Python.h is not there: "
            "install them (Debian: apt install python3-dev), or install the wheel instead"
        )
    return folder


def build_extension(
    work: Path, target: Path = EXTENSION, options: Sequence[str] = HARDENING, linked: Sequence[str] = ()
) -> None:
    """Compile every family into one abi3 extension module; what is not the default is for tools/sanitize.py alone."""
    families = sorted(path.stem for path in SOURCES.glob("*.cdef"))
    ffi = FFI()
    for family in families:
        ffi.cdef((SOURCES / f"{family}.cdef").read_text())
    preamble = "".join(f'#include "{family}.h"\n' for family in families)
    ffi.set_source("sandlock_sys._ffi", preamble, py_limited_api=True)
    glue = work / "_ffi.c"
    ffi.emit_c_code(str(glue))
    python = [f"-DPy_LIMITED_API={OLDEST_PYTHON}", f"-I{python_include()}", f"-I{SOURCES}"]
    command = [
        *compiler(), "-std=gnu11", "-shared", "-fPIC", "-pthread", *options, *LINKING,
        # cffi's glue asserts, and an assertion names its file: two builds must not differ in that.
        f"-ffile-prefix-map={work}=.",
        *python, "-o", str(work / "_ffi.so"),
    ]  # fmt: skip
    objects = []
    for source in sorted(SOURCES.glob("*.c")):
        if source.stem == GUARD_SOURCE:
            continue
        # Our own C is held to -Werror; the glue that cffi generates is not ours to mend.
        objects.append(str(work / f"{source.stem}.o"))
        run([*compiler(), "-std=gnu11", "-c", "-fPIC", "-pthread", *options, *WARNINGS,
             *python, str(source), "-o", objects[-1]])  # fmt: skip
    run([*command, str(glue), *objects, *linked])
    os.replace(shutil.copy(work / "_ffi.so", target.with_suffix(".new")), target)


def build_guard(work: Path, target: Path = GUARD, options: Sequence[str] = ()) -> None:
    """Compile the guard, the small static program that is the parent of every sandboxed tree."""
    source = SOURCES / f"{GUARD_SOURCE}.c"
    run([*compiler(), "-std=gnu11", *FREESTANDING, *WARNINGS, *options, f"-I{SOURCES}", str(source),
         "-o", str(work / "guard")])  # fmt: skip
    os.replace(shutil.copy(work / "guard", target.with_suffix(".new")), target)


def run(command: list[str]) -> None:
    """Run the compiler; RuntimeError with its words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")


def build() -> None:
    """Build both artifacts in place."""
    with tempfile.TemporaryDirectory() as folder:
        build_extension(Path(folder))
        build_guard(Path(folder))


class CustomBuildHook(BuildHookInterface[Any]):
    """Build before the wheel is packed, and tag it for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile in place; `version` is "editable" or "standard"."""
        build()
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"] += [f"/{EXTENSION.relative_to(ROOT)}", f"/{GUARD.relative_to(ROOT)}"]


if __name__ == "__main__":
    build()
