"""Servers that tests start take a moment before they answer."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

__all__ = ["wait_for_server"]

_PATIENCE_S = 30.0  # a loaded machine may let a server wait for seconds


def wait_for_server(
    port: int, process: subprocess.Popen[bytes] | None = None, *, patience_s: float = _PATIENCE_S
) -> None:
    """Return when a TCP server takes connections at `port`; fail when it does not, or when its process has ended."""
    deadline = time.monotonic() + patience_s
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the server at port {port} ended with {process.returncode}")
        assert time.monotonic() < deadline, f"nobody answers at port {port} after {patience_s:g} s"
        time.sleep(0.02)
