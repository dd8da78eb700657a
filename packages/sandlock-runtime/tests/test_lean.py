"""The run path imports nothing that takes long: a confined `/bin/true` would pay for it."""

from __future__ import annotations

import os
import subprocess
import sys

import _cffi_backend  # type: ignore[import-untyped]  # an extension module of cffi, without types
import pytest
from runtime_lab import SYSTEM

import sandlock_arch
import sandlock_cow
import sandlock_notif
import sandlock_policy
import sandlock_runtime
import sandlock_sys

HEAVY = {
    "argparse", "asyncio", "collections", "contextlib", "dataclasses", "enum", "functools", "inspect", "json",
    "logging", "pathlib", "re", "shutil", "signal", "socket", "subprocess", "tempfile", "threading",
    "tomllib", "typing", "warnings",
}  # fmt: skip

RUN = f"from sandlock_runtime import Sandbox\nassert Sandbox(fs_readable={SYSTEM!r}).run(['true']).success"
PRESET = (
    "from sandlock_policy import preset\nfrom sandlock_runtime.sandbox import Sandbox\n"
    "assert Sandbox(preset('default')).run(['true']).success"
)
OLD = "import os\nos.environ['SANDLOCK_LANDLOCK_ABI'] = '2'\n"  # Debian 12's kernel: more is held by namespaces
POPEN = f"from sandlock_runtime import Sandbox\nSandbox(fs_readable={SYSTEM!r}).popen(['true']).wait(9)"


@pytest.mark.parametrize(
    "code",
    [
        "import sandlock_runtime",
        "import sandlock_runtime.launch",
        "import sandlock_runtime.sandbox",
        RUN,
        PRESET,
        POPEN,
        pytest.param(OLD + RUN, marks=pytest.mark.needs("pid_namespace")),
        pytest.param(OLD + PRESET, marks=pytest.mark.needs("pid_namespace")),
    ],
    ids=["package", "launch", "sandbox", "a run", "a run of the preset", "popen", "a run on 6.1", "the preset on 6.1"],
)
def test_the_run_path_loads_no_heavy_module(code: str) -> None:
    assert loaded_after("import dataclasses") & HEAVY >= {"dataclasses", "re", "enum", "inspect"}
    assert loaded_after(code) & HEAVY == set()


@pytest.mark.needs("seccomp", level=2)
def test_a_denied_path_loads_neither_branches_nor_what_reads_elf() -> None:
    denied = RUN.replace("fs_readable", "fs_denied=['/usr/share/doc'], fs_readable")
    loaded = loaded_after(denied)
    assert "sandlock_notif.fs.view" in loaded
    assert loaded & {"elftools", "sandlock_checkpoint", "sandlock_cow", "sandlock_proxy"} == set()


def test_the_package_alone_loads_nothing_of_itself() -> None:
    assert {name for name in loaded_after("import sandlock_runtime") if name.startswith("sandlock_")} == {
        "sandlock_runtime"
    }


def test_every_public_name_is_there_and_no_other() -> None:
    for name in sandlock_runtime.__all__:
        assert getattr(sandlock_runtime, name) is getattr(sandlock_runtime, name)
    assert set(dir(sandlock_runtime)) >= set(sandlock_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Sandbxo'"):
        _ = sandlock_runtime.Sandbxo  # type: ignore[attr-defined]  # that is the claim


def loaded_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has after `code`, without those that its start-up loads."""
    packages = (sandlock_runtime, sandlock_notif, sandlock_cow, sandlock_policy, sandlock_arch, sandlock_sys)
    roots = [os.path.dirname(os.path.dirname(package.__file__ or "")) for package in packages]
    roots.append(os.path.dirname(_cffi_backend.__file__))
    program = f"import sys\nsys.path[:0] = {roots!r}\n{code}\nprint(*sys.modules)"
    output = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stderr
    return set(output.stdout.split())
