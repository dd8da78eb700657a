"""A server is waited for until it answers, and not beyond its end."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from sandlock_testkit.servers import wait_for_server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_server_that_comes_late_is_waited_for() -> None:
    port, begun = free_port(), threading.Event()

    def serve() -> None:
        time.sleep(0.2)
        with socket.create_server(("127.0.0.1", port)) as server:
            begun.set()
            server.accept()[0].close()

    thread = threading.Thread(target=serve)
    thread.start()
    wait_for_server(port)
    assert begun.is_set()
    thread.join()


def test_a_server_that_has_ended_or_never_answers_fails_the_test() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with process, pytest.raises(AssertionError, match="ended with 3"):
        wait_for_server(free_port(), process)
    with pytest.raises(AssertionError, match="nobody answers"):
        wait_for_server(free_port(), patience_s=0.1)
