"""The fixture `outsider`: a process of the same user that a sandbox must not reach."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Outsider", "outsider"]


@dataclass(frozen=True, slots=True)
class Outsider:
    """A sleeping process in a session of its own; `secret` is in its environment, and so in its memory."""

    pid: int
    secret: str
    _process: subprocess.Popen[bytes]

    def alive(self) -> bool:
        """Whether it neither ended nor was stopped."""
        if self._process.poll() is not None:
            return False
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] in {"S", "R"}


@pytest.fixture
def outsider() -> Iterator[Outsider]:
    """A fresh Outsider; that it still lives is checked when the test ends."""
    secret = f"outsider-{os.urandom(8).hex()}"
    process = subprocess.Popen(
        ["sleep", "600"], env={"OUTSIDER_SECRET": secret, "PATH": "/usr/bin:/bin"}, start_new_session=True
    )
    made = Outsider(process.pid, secret, process)
    try:
        yield made
        assert made.alive(), f"the outsider was killed or stopped: {process.returncode}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
