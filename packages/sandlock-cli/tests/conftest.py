"""The command, typed: `sandlock("run", "--", "true")`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Done = subprocess.CompletedProcess[str]


class Typed(Protocol):
    """Runs the command and returns what became of it."""

    def __call__(
        self,
        *words: str,
        cwd: Path | str | None = None,
        env: dict[str, str] | None = None,
        stdin: str = "",
        pass_fds: Sequence[int] = (),
    ) -> Done: ...


@pytest.fixture
def sandlock(tmp_path: Path) -> Typed:
    """`sandlock(words...)`, in an empty folder of the caller and with a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    work = tmp_path / "work"
    work.mkdir()

    def typed(
        *words: str,
        cwd: Path | str | None = None,
        env: dict[str, str] | None = None,
        stdin: str = "",
        pass_fds: Sequence[int] = (),
    ) -> Done:
        environment = {**os.environ, "HOME": str(home), **(env or {})}
        environment.pop("XDG_CONFIG_HOME", None)
        return subprocess.run(
            [sys.executable, "-m", "sandlock_cli", *words],
            cwd=work if cwd is None else cwd,
            env=environment,
            input=stdin,
            pass_fds=pass_fds,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return typed
