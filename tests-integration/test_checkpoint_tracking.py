"""Successive checkpoints of a sandbox with a tracker: only what was written is read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import sandlock_arch
from sandlock import PIPE, Process, Sandbox, Tracker
from sandlock_checkpoint import image
from sandlock_testkit.features import level

pytestmark = [pytest.mark.needs("ptrace"), pytest.mark.needs("landlock", level=1)]

PROGRAM = """
import os, sys
data = bytearray(os.urandom(8 << 20))
token = data[:16].hex()
for number, line in enumerate(sys.stdin):
    data[number * 4096] ^= 1
    print(number, token, sum(data[::4096]), flush=True)
"""


def ask(process: Process, question: bytes = b"next") -> list[bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question + b"\n")
    process.stdin.flush()
    return process.stdout.readline().split()


def box(*, trackable: bool = False) -> Sandbox:
    readable = [path for path in ("/usr", "/lib", "/lib64", "/bin", "/etc", sys.prefix) if Path(path).exists()]
    return Sandbox(fs_readable=readable, trackable=trackable)


@pytest.mark.parametrize("trackable", [False, True], ids=["plain", "trackable"])
def test_the_next_checkpoint_has_what_was_written_and_is_restored(tmp_path: Path, *, trackable: bool) -> None:
    sandbox = box(trackable=trackable)
    with Tracker() as tracker, sandbox.popen(
        ["/usr/bin/python3", "-c", PROGRAM], stdin=PIPE, stdout=PIPE
    ) as process:  # fmt: skip
        token = ask(process)[1]
        with sandbox.checkpoint(tracker=tracker) as checkpoint:
            checkpoint.save(tmp_path / "first")
        watched = not tracker.untracked
        if trackable:
            assert watched == bool(level("write_notes"))
        else:  # a kernel before 6.7 notes nothing, and a user cannot suspend the filter
            assert not (watched and os.geteuid())
        assert watched or "userfaultfd" in next(iter(tracker.untracked.values())).lower()
        ask(process)
        with sandbox.checkpoint(tracker=tracker) as checkpoint:
            checkpoint.save(tmp_path / "second", parent=tmp_path / "first")
        expected = ask(process)
    assert expected[:2] == [b"2", token]
    found = image.show(tmp_path / "second")
    unread, inherited = found["unread_bytes"], found["inherited_bytes"]
    assert isinstance(unread, int)
    assert isinstance(inherited, int)
    assert (unread > 4 << 20) == watched
    assert inherited > 4 << 20
    with Tracker() as again, sandbox.restore(tmp_path / "second", stdin=PIPE, stdout=PIPE) as restored:
        assert ask(restored) == expected
        with sandbox.checkpoint(tracker=again) as checkpoint:
            checkpoint.save(tmp_path / "third")
        assert bool(again.untracked) != watched


@pytest.mark.parametrize("trackable", [False, True], ids=["plain", "trackable"])
def test_the_filter_judges_again_as_soon_as_it_is_watched(tmp_path: Path, *, trackable: bool) -> None:
    """What is let through for one call of the tracker's own is no gap for the program."""
    sandbox = box(trackable=trackable)
    program = (
        "import ctypes, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "for line in sys.stdin: print(libc.syscall(int(line), 0x80001), ctypes.get_errno(), flush=True)"
    )
    number = str(sandlock_arch.native().syscalls["userfaultfd"]).encode()
    with Tracker() as tracker, sandbox.popen(["/usr/bin/python3", "-c", program], stdin=PIPE, stdout=PIPE) as process:
        before = ask(process, number)
        with sandbox.checkpoint(tracker=tracker) as checkpoint:
            checkpoint.save(tmp_path / "first")
        assert before == ask(process, number) == [b"-1", b"1"]
