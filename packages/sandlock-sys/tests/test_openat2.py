"""openat2: a walk that a rename of somebody else disturbs is walked again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from errno import EAGAIN
from pathlib import Path

import pytest

from sandlock_sys.constants.openat2 import Resolve
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2

RENAMES = "import os, sys\nname = sys.argv[1]\nprint(flush=True)\nwhile True: os.rename(name, name + '-'); os.rename(name + '-', name)"
ROUNDS = 4_000


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A folder, while another process renames two files elsewhere as fast as it can."""
    (tmp_path / "root/a/b").mkdir(parents=True)
    disturbers = []
    for name in ("first", "second"):
        (tmp_path / name).touch()
        command = [sys.executable, "-c", RENAMES, tmp_path / name]
        disturbers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    fd = os.open(tmp_path / "root", os.O_PATH)
    for disturber in disturbers:
        assert disturber.stdout is not None
        disturber.stdout.readline()
    yield fd
    os.close(fd)
    for disturber in disturbers:
        disturber.kill()
        disturber.communicate()


def opened(root: int, resolve: int) -> int:
    """How many of the rounds opened it; EAGAIN is the only other outcome."""
    done = 0
    for _ in range(ROUNDS):
        try:
            os.close(openat2(root, b"a/b/../../" * 6, os.O_PATH, resolve))
            done += 1
        except SyscallError as error:
            assert error.errno == EAGAIN
    return done


@pytest.mark.parametrize("resolve", [Resolve.BENEATH, Resolve.IN_ROOT])
def test_a_rename_elsewhere_fails_no_walk(root: int, resolve: int) -> None:
    assert opened(root, resolve) == ROUNDS
