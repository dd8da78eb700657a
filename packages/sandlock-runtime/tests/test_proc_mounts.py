"""Where processes of the host are shown, by what the kernel tells of mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandlock_runtime.proc_mounts import ProcMounts

TABLE = r"""
22 1 8:1 / / rw - ext4 /dev/root rw
23 22 0:20 / /proc rw - proc proc rw
24 23 0:20 /sys /proc/sys ro - proc proc rw
25 22 0:31 / {root}/with\040space/proc rw - proc proc rw
26 22 0:32 /sys {root}/half/sys ro - proc proc rw
27 22 0:32 /77 {root}/one ro - proc proc rw
28 22 0:33 / {root}/named rw - tmpfs proc rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> ProcMounts:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.strip().format(root=tmp_path))
    return ProcMounts(str(table))


def test_a_folder_that_holds_a_proc_shows_processes(mounts: ProcMounts, tmp_path: Path) -> None:
    proc = f"{tmp_path}/with space/proc"
    assert mounts.shown_in(f"{tmp_path}/with space") == proc
    assert mounts.shown_in(proc) == proc
    assert mounts.shown_in("/") == "/proc"
    assert mounts.shown_in(f"/proc/{os.getpid()}/fd") == f"/proc/{os.getpid()}/fd"
    assert mounts.shown_in("/proc/self/ns") == f"/proc/{os.getpid()}/ns"
    assert mounts.shown_in(f"{tmp_path}/one/fd") == f"{tmp_path}/one/fd"  # of process 77
    for other in ("/proc/sys", "/proc/cpuinfo", "/usr", f"{tmp_path}/half", f"{tmp_path}/named", f"{tmp_path}/with"):
        assert mounts.shown_in(other) is None, other


def test_the_own_proc_of_a_root_is_none_of_the_others(mounts: ProcMounts, tmp_path: Path) -> None:
    assert mounts.shown_elsewhere(f"{tmp_path}/with space") is None
    assert mounts.shown_elsewhere(f"{tmp_path}/half") is None
    assert mounts.shown_elsewhere(str(tmp_path)) == f"{tmp_path}/with space/proc"
    assert mounts.shown_elsewhere("/") == f"{tmp_path}/with space/proc"


def test_the_machines_own_table_is_understood() -> None:
    assert ProcMounts().shown_in("/") is not None
    assert ProcMounts().shown_in("/usr") is None
