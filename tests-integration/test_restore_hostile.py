"""An image that somebody else has written: nothing in it gives the restored more than the restorer's policy does."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint_lab import NEEDED, SYSTEM, answer, ask, box, restored, saved, start

import sandlock_arch
from sandlock import ImageError, RestoreError, Sandbox, load
from sandlock_checkpoint import Checkpoint, FileIdentity
from sandlock_checkpoint.image.check import check_checkpoint
from sandlock_checkpoint.memory import SharedMemory
from sandlock_checkpoint.model import Limit, PosixTimer, Registers, RobustList
from sandlock_checkpoint.open_files import (
    Descriptor,
    EventFile,
    MemoryFile,
    NamedFile,
    OpenFile,
    Pipe,
    PipeEnd,
    SocketEnd,
    SocketPair,
    UnconnectedSocket,
)

pytestmark = NEEDED

Change = Callable[[Checkpoint], Checkpoint]
_WORD = (1 << 64) - 1
_CALLS = sandlock_arch.native().syscalls
_EXECVE, _SLEEP = _CALLS["execve"], _CALLS["nanosleep"]
_FORK = _CALLS.get("fork", _CALLS["clone"])  # newer architectures have the second alone
_FD = 40  # a number that the saved program does not use


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `folder`, which is granted, `secret`, which is not, and `image`, of a program in `folder`."""
    made = tmp_path_factory.mktemp("hostile")
    (made / "folder").mkdir()
    (made / "folder/file").write_text("content\n")
    (made / "secret").write_text("secret\n")
    with box(made / "folder") as sandbox, start(sandbox) as process:
        ask(process)
        saved(sandbox, made / "image")
    yield made
    shutil.rmtree(made, ignore_errors=True)


def first(**fields: Any) -> Change:
    """Change the process; a callable value is given the old one."""

    def change(checkpoint: Checkpoint) -> Checkpoint:
        process = checkpoint.processes[0]
        new = {name: value(getattr(process, name)) if callable(value) else value for name, value in fields.items()}
        return replace(checkpoint, processes=(replace(process, **new), *checkpoint.processes[1:]))

    return change


def thread(**fields: Any) -> Change:
    return first(threads=lambda threads: (replace(threads[0], **fields), *threads[1:]))


def opened(target: Callable[[Path], Any], flags: int = 0, **tables: Any) -> Callable[[Path], Change]:
    """Give the process the descriptor `_FD` of one more open file; `tables` replaces pipes, sockets and the like."""

    def of(place: Path) -> Change:
        def change(checkpoint: Checkpoint) -> Checkpoint:
            row = Descriptor(_FD, len(checkpoint.files), close_on_exec=False)
            checkpoint = first(descriptors=lambda rows: (*rows, row))(checkpoint)
            return replace(checkpoint, files=(*checkpoint.files, OpenFile(flags, target(place))), **tables)

        return change

    return of


def named(path: str, flags: int = 0) -> Callable[[Path], Change]:
    def file(place: Path) -> NamedFile:
        facts = os.stat(place / path)
        identity = FileIdentity(
            os.fsencode(place / path), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_mode
        )
        return NamedFile(identity, 0)

    return opened(file, flags)


def fixed(change: Change) -> Callable[[Path], Change]:
    return lambda _: change


def sock(*fields: Any) -> Callable[[Path], Change]:
    return opened(lambda _: UnconnectedSocket(*fields))


_BOUND = struct.pack("<H", 2) + struct.pack(">H", 45671) + bytes([127, 0, 0, 1]) + bytes(8)

REFUSED = {
    "calls-exec": fixed(thread(restart="time_left", syscall=_EXECVE)),
    "calls-fork": fixed(thread(restart="time_left", syscall=_FORK)),
    "calls-nothing-known": fixed(thread(restart="time_left", syscall=9999)),
    "short-registers": fixed(thread(restart="time_left", syscall=_SLEEP, registers=(Registers("general", 1, b"x"),))),
    "registers-of-no-kind": fixed(thread(registers=(Registers("general", 0xFFFF_FFFF, bytes(216)),))),
    "kills-itself": fixed(thread(pending=(struct.pack("<i", 9) + bytes(124),))),
    "another-user": fixed(first(uid=(12345,) * 4)),
    "personality": fixed(first(personality=0x0400000)),
    "outside": named("secret"),
    "written": named("folder/file", os.O_RDWR),
    "unnamed": named("folder", os.O_RDWR | os.O_TMPFILE),
    "memory-of-init": named("/proc/1/mem", os.O_RDWR),
    "folder-of-all": named("/", os.O_DIRECTORY),
    "raw-socket": sock(2, 3, 1, b"", -1),
    "audit-netlink": sock(16, 3, 9, b"", -1),
    "vsock": sock(40, 1, 0, b"", -1),
    "mptcp": sock(2, 1, 262, b"", -1),
    "bound": sock(2, 1, 0, _BOUND, 5),
    "listens": sock(2, 1, 0, b"", 5),
    "socket-option": sock(2, 1, 0, b"", -1, ((1, 36, 77),)),  # SO_MARK
    "full-pipe": opened(lambda _: PipeEnd(0, writing=True), 1, pipes=(Pipe((1 << 31) - 1, bytes(3 << 20)),)),
    "full-socket": opened(lambda _: SocketEnd(0, 0), 2, sockets=(SocketPair(1, ((bytes(4 << 20),), ())),)),
    "counted-out": opened(lambda _: EventFile(_WORD, semaphore=False)),
    "huge-pages": opened(lambda _: MemoryFile(0, 0), 2, shared=(SharedMemory(4096, (), "memfd", b"x", memfd_flags=4),)),
}


@contextmanager
def forged(place: Path, change: Change = lambda checkpoint: checkpoint, policy: str = "") -> Iterator[Checkpoint]:
    """Change what was saved, and look at it as `load` does; an attacker leaves out what would be compared."""
    with load(place / "image") as checkpoint:
        bad = replace(change(checkpoint), policy=policy)
        check_checkpoint(bad)
        yield bad


def test_ck_07_what_the_policy_denies_is_refused_in_words(place: Path) -> None:
    taken = []
    with box(place / "folder", net_allow=["127.0.0.1:9"]) as sandbox:
        for name, change in REFUSED.items():
            with forged(place, change(place)) as bad:
                try:
                    restored(sandbox, bad).close()
                except RestoreError:
                    assert not sandbox.is_running, name
                else:
                    taken.append(name)
        assert taken == []
        with forged(place) as good, restored(sandbox, good) as process:  # positive control: without any of it
            assert answer(process, "'alive'") == "alive"


def test_ck_03_a_policy_that_is_none_is_refused(place: Path) -> None:
    refused = pytest.raises(ImageError, match=r"policy\.json")
    with box(place / "folder") as sandbox, forged(place, policy="[[") as bad, refused:
        restored(sandbox, bad)


TAMED: dict[str, tuple[Change, str, str]] = {
    # What the image says of these holds only within the policy, or for the program alone.
    "limits": (first(limits=tuple(Limit(n, _WORD, _WORD) for n in range(16))),
               "__import__('resource').getrlimit(7)", "(64, 64)"),
    "robust-list": (thread(robust_list=RobustList(_WORD - 3, 24)), "'alive'", "alive"),
    "negative-value": (first(posix_timers=(PosixTimer(0, 1, 0, 14, -1, 0, 0, 0),)), "'alive'", "alive"),
    "parent-death": (thread(parent_death_signal=9), "'alive'", "alive"),
    "outside-cwd": (first(cwd=b"/"), "os.listdir('.')", "EACCES"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMED)
def test_ck_01_what_is_taken_stays_within_the_policy(place: Path, name: str) -> None:
    change, question, wanted = TAMED[name]
    with (
        box(place / "folder", max_open_files=64) as sandbox,
        forged(place, change) as bad,
        restored(sandbox, bad) as process,
    ):
        assert answer(process, question) == wanted


@pytest.mark.needs("mount_namespace")
def test_ck_07_a_snapshot_changes_nothing_that_is_denied(tmp_path: Path) -> None:
    """The branch of an image is committed like any other: it may not hold what no program could have written."""
    work, kept = tmp_path / "work", tmp_path / "image"
    work.mkdir()
    (work / "sub").mkdir()
    (work / "settings").write_text("the owner's\n")
    fields: dict[str, Any] = {
        "fs_readable": [*SYSTEM, str(work)], "cwd": str(work), "workdir": str(work), "on_exit": "commit",
        "on_error": "abort", "namespaces": "require",
    }  # fmt: skip
    with Sandbox(**fields | {"on_exit": "abort"}) as sandbox, start(sandbox) as process:
        answer(process, "(open('settings', 'w').write('mine'), open('sub/new', 'w').write('x'))")
        saved(sandbox, kept)
    for denied in ("settings", "sub/new", "sub"):
        refused = pytest.raises(RestoreError, match=f"snapshot .*{denied}, which the policy denies")
        with Sandbox(**fields, fs_denied=[str(work / denied)]) as sandbox, refused:
            restored(sandbox, kept, allow=["policy"])
        assert (work / "settings").read_text() == "the owner's\n"
        assert not (work / "sub/new").exists()
    others = [str(work / "other"), str(work / "sub/other")]
    with Sandbox(**fields, fs_denied=others) as sandbox, restored(sandbox, kept, allow=["policy"]) as process:
        assert answer(process, "open('settings').read()") == "mine"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60).success
    assert (work / "settings").read_text() == "mine"  # positive control: what is not denied is committed


@pytest.mark.needs("mount_namespace")
def test_ck_11_a_snapshot_is_not_dropped_where_nothing_shows_it(tmp_path: Path) -> None:
    work, kept = tmp_path / "work", tmp_path / "image"
    work.mkdir()
    fields: dict[str, Any] = {"fs_readable": [*SYSTEM, str(work)], "cwd": "/usr", "workdir": str(work)}
    with Sandbox(**fields, namespaces="require") as sandbox, start(sandbox) as process:
        answer(process, f"open({str(work / 'new')!r}, 'w').write('x')")
        saved(sandbox, kept)
    with Sandbox(**fields, namespaces="off") as sandbox, pytest.raises(RestoreError, match="namespaces"):
        restored(sandbox, kept, allow=["policy"])
