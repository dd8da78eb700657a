"""openat2: a walk that a rename of somebody else disturbs is walked again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandlock_sys.constants.openat2 import Resolve
from sandlock_sys.openat2 import openat2
from sandlock_testkit.renaming import renaming

ROUNDS = 4_000


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A folder, while other processes rename files elsewhere."""
    (tmp_path / "root/a/b").mkdir(parents=True)
    with renaming(tmp_path / "first"), renaming(tmp_path / "second"):
        fd = os.open(tmp_path / "root", os.O_PATH)
        yield fd
        os.close(fd)


@pytest.mark.parametrize("resolve", [Resolve.BENEATH, Resolve.IN_ROOT])
def test_a_rename_elsewhere_fails_no_walk(root: int, resolve: int) -> None:
    for _ in range(ROUNDS):  # of 4,000 some 150 failed with EAGAIN where each was walked once
        os.close(openat2(root, b"a/b/../../" * 6, os.O_PATH, resolve))
