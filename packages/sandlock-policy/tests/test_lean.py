"""The run path imports nothing that takes long: a confined `/bin/true` would pay for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import sandlock_arch
import sandlock_policy

# What a fresh interpreter has not loaded, and what costs more than a millisecond on the machines we measured.
HEAVY = {
    "argparse", "ast", "asyncio", "collections", "contextlib", "dataclasses", "datetime", "difflib", "enum",
    "functools", "importlib.metadata", "inspect", "ipaddress", "json", "logging", "pathlib", "re", "shutil", "signal",
    "socket", "subprocess", "tempfile", "threading", "tomllib", "typing", "warnings",
}  # fmt: skip

PLAIN_RUN = """
from sandlock_policy import Context, preset, resolve
from sandlock_policy.features import features_of_abi
from sandlock_policy.programs import program_folders
policy = preset("default")
resolve(policy, features_of_abi(7), Context("/work", "/home/me", {}, 1, 1, "/usr/bin/true", ()))
"""
WITH_GRANTS = """
from sandlock_policy import Policy
Policy(fs_readable=["/usr", "~/x"], fs_writable=["out"], env={"A": "1"}, timeout="10s", max_open_files=64,
       cpu_cores="0-1", max_cpu=50, clean_env=False, disable=["fs_refer"], namespaces="off")
"""


@pytest.mark.parametrize("code", [PLAIN_RUN, WITH_GRANTS], ids=["plain run", "with grants"])
def test_a_launch_loads_no_heavy_module(code: str) -> None:
    assert loaded_after("import dataclasses") & HEAVY >= {"dataclasses", "re", "enum", "inspect"}
    assert loaded_after(code) & HEAVY == set()


def loaded_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has after `code`, without those that its start-up loads."""
    roots = [os.path.dirname(os.path.dirname(package.__file__ or "")) for package in (sandlock_policy, sandlock_arch)]
    program = f"import sys\nsys.path[:0] = {roots!r}\n{code}\nprint(*sys.modules)"
    output = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(output.stdout.split())
