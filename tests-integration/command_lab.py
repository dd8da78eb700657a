"""The command as typed, with a home, a runtime folder and a storage of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Command"]

PATHS = os.pathsep.join(path for path in sys.path if "packages" in path)
_DRAWN_AT_ONCE = """
import sys
sys.modules["rich"] = None
from sandlock_cli import progress, start
progress._AFTER_S = 0
start.start()
"""


class Command:
    """`sandlock(words...)`, in an empty folder `work` of the caller.

    Attributes:
        work: where it is typed.
        env: its environment.

    """

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        for path in (self.work, folder / "home", folder / "runtime"):
            path.mkdir(mode=0o700)
        own = {"HOME": str(folder / "home"), "XDG_RUNTIME_DIR": str(folder / "runtime")}
        known = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        self.env = {**known, **own, "PYTHONPATH": os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])}
        self.branches = folder / "home/.local/state/sandlock/branches"

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type it, and wait for its end."""
        return subprocess.run(
            self.line(*words),
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Type it, and go on."""
        return subprocess.Popen(
            self.line(*words),
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def on_terminal(self, *words: str) -> tuple[subprocess.CompletedProcess[bytes], bytes]:
        """Type it with a terminal for its errors, and return what ended and what was drawn there.

        Progress is drawn at once, though it is soon over, and as it is where rich is not installed.
        """
        main, side = pty.openpty()
        line = [sys.executable, "-c", _DRAWN_AT_ONCE, *words]
        try:
            done = subprocess.run(
                line, cwd=self.work, env=self.env, stderr=side, stdout=subprocess.PIPE, check=False, timeout=60
            )
        finally:
            os.close(side)
        drawn = b""
        try:
            while chunk := os.read(main, 65536):
                drawn += chunk
        except OSError:  # EIO: the terminal's other side is closed
            pass
        finally:
            os.close(main)
        return done, drawn

    def listed(self, verb: str, key: str) -> list[dict[str, Any]]:
        """Ask `verb` until it tells of something by `key`, and return that; after 30 seconds the nothing it told."""
        deadline = time.monotonic() + 30
        while True:
            told: list[dict[str, Any]] = self.told(verb)[key]
            if told or time.monotonic() > deadline:
                return told
            time.sleep(0.05)

    def line(self, *words: str) -> list[str]:
        """The words of the process itself."""
        return [sys.executable, "-m", "sandlock_cli", *words]

    def told(self, *words: str) -> dict[str, Any]:
        """Type it with --json behind the verb, and return what it printed."""
        done = self(words[0], "--json", *words[1:])
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def tree(self) -> dict[str, str]:
        """Path -> mode and content of everything in `work`, .git's own files left out."""
        found = {}
        for path in sorted(self.work.rglob("*")):
            name = str(path.relative_to(self.work))
            if path.is_symlink():
                found[name] = f"-> {os.readlink(path)}"
            else:
                found[name] = f"{path.stat().st_mode:o} {path.read_text() if path.is_file() else ''}"
        return found
