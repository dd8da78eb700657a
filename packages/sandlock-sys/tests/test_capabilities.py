"""Effective capabilities are given up and taken back by one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandlock_sys.capabilities import set_effective
from sandlock_sys.errors import SyscallError


def effective() -> int:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("CapEff")).split()[1], 16)


def test_they_are_given_up_and_taken_back() -> None:
    had = effective()
    assert set_effective(0) == had
    try:
        assert effective() == 0
    finally:
        assert set_effective(had) == 0
    assert effective() == had


def test_what_is_not_permitted_is_refused() -> None:
    if os.geteuid() == 0:
        assert set_effective(effective()) == effective()
        return
    with pytest.raises(SyscallError, match="capset"):
        set_effective(1)
