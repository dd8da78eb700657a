"""The tests below an older kernel: what it lacks is given up in every process, however it finds its modules."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from workspace import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROTECT = """
class Protections:
    def row(self, name, state, layer, detail=""):
        print(name, state)

    def lack(self, name, layer, reason):
        print(name, "refused")
"""
# What the command does: a finder of its own for the same modules, before all others.
QUICK = """
import sys
from importlib.machinery import PathFinder

class Quick:
    def find_spec(self, name, path=None, target=None):
        return PathFinder.find_spec(name, path, target)

sys.meta_path.insert(0, Quick())
"""
ASK = """
from sandlock_policy.protect import Protections
Protections().lack("fs_truncate", "landlock", "")
Protections().lack("fs_access", "landlock", "")
"""


@pytest.mark.parametrize("before", ["", QUICK])
@pytest.mark.parametrize(
    ("abi", "pretended", "said"), [(2, "", "degraded"), (3, "", "refused"), (7, "2", "degraded"), (2, "7", "degraded")]
)
def test_what_the_kernel_lacks_is_given_up_and_nothing_else(
    tmp_path: Path, before: str, abi: int, pretended: str, said: str
) -> None:
    for name, text in {
        "sandlock_policy/__init__.py": "",
        "sandlock_policy/protect.py": PROTECT,
        "sandlock_sys/__init__.py": "",
        "sandlock_sys/landlock.py": f"def abi_version():\n    return {abi}\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    path = os.pathsep.join([str(ROOT / "tools" / "older_kernel"), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", before + ASK],
        env={"PYTHONPATH": path, "SANDLOCK_LANDLOCK_ABI": pretended},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"fs_truncate {said}\nfs_access refused\n", done.stderr
