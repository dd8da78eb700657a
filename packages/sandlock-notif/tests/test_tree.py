"""Who descends from whom, also while processes end and their numbers are given to others."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from sandlock_notif.task_facts import descends

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def folder(path: str | Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def stat(pid: int, parent: int) -> bytes:
    return b"%d (x) S %d" % (pid, parent) + b" 0" * 48 + b"\n"


def tell(path: Path, first: bytes, second: bytes) -> None:
    """Give the first reader of the FIFO one answer and let every later one find another."""
    with path.open("wb") as fifo:
        fifo.write(first)
        path.with_name("second").write_bytes(second)
        path.with_name("second").rename(path)  # before the first reader has seen the end of its file


def test_children_and_their_children_descend() -> None:
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            grandchild = int(child.stdout.readline())
            with folder(f"/proc/{grandchild}") as found, folder(f"/proc/{grandchild}/task/{grandchild}") as thread:
                assert descends(found, child.pid)
                assert descends(found, os.getpid())
                assert descends(thread, os.getpid(), b"../../..")
                assert not descends(found, grandchild)
            with folder(f"/proc/{child.pid}") as found:
                assert not descends(found, grandchild)
        finally:
            subprocess.run(["kill", str(grandchild)], check=True)
    with folder(f"/proc/{os.getpid()}") as found:
        assert not descends(found, grandchild)


def test_a_process_that_has_ended_descends_from_nobody() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child, folder(f"/proc/{child.pid}") as found:
        assert descends(found, os.getpid())
        child.communicate()
        assert not descends(found, os.getpid())


@pytest.mark.parametrize(("second", "expected"), [(5, True), (1, False)])
def test_a_number_that_another_got_meanwhile_leads_nowhere(tmp_path: Path, second: int, expected: bool) -> None:
    """Process 9 named 5 as its parent; that ended, and a child of 7 got its number before it was looked up."""
    for pid in (5, 9):
        (tmp_path / str(pid)).mkdir()
    (tmp_path / "5/stat").write_bytes(stat(5, 7))
    os.mkfifo(tmp_path / "9/stat")
    teller = threading.Thread(target=tell, args=(tmp_path / "9/stat", stat(9, 5), stat(9, second)), daemon=True)
    teller.start()
    with folder(tmp_path / "9") as found:
        assert descends(found, 7) is expected
    teller.join(10)
    assert not teller.is_alive()
