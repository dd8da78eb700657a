"""A lock of the C library that was held when a program was saved is released after a restore under other ids."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from process_lab import Lab, wait_until

from sandlock_checkpoint import Ids, Leave, capture, load, restore
from sandlock_checkpoint.memory import Mapping, MappingKind
from sandlock_checkpoint.restore import drive
from sandlock_checkpoint.restore.libc_locks import held_locks, rename_holders
from sandlock_sys import procmem

HOLDER = 4711
# readers, writers, phase, futex, two of nothing, writer, shared
WRITTEN = struct.pack("<8I", 3, 0, 1, 1, 0, 0, HOLDER, 0)
# lock, count, owner, users, kind
TAKEN = struct.pack("<5I", 1, 2, HOLDER, 1, 1)
PROGRAM = """
import ctypes, sys
libc = ctypes.CDLL(None)
setlocale, rounds = libc.setlocale, 0
print("ready", flush=True)
while True:
    setlocale(6, b"C.UTF-8"); setlocale(6, b"C"); setlocale(6, b""); rounds += 1
    if not rounds % 1000:
        print(rounds, flush=True)
"""
MOST = 60  # captures


def found(data: bytes) -> list[tuple[int, int]]:
    return list(held_locks(data, {HOLDER: 1}))


def test_the_holder_of_a_lock_is_found_wherever_it_stands() -> None:
    assert found(WRITTEN) == [(24, HOLDER)]
    assert found(TAKEN) == [(8, HOLDER)]
    assert found(bytes(20) + TAKEN + bytes(12) + WRITTEN + bytes(4)) == [(28, HOLDER), (76, HOLDER)]
    assert found(struct.pack("<5I", 2, 1, HOLDER, 1, 1)) == [(8, HOLDER)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HOLDER.to_bytes(4, "little"),
        HOLDER.to_bytes(4, "little") * 40,
        WRITTEN[:28],
        TAKEN[:16],
        b"\0" + WRITTEN + bytes(3),
        struct.pack("<8I", 8, 0, 1, 1, 0, 0, HOLDER, 0),
        struct.pack("<8I", 3, 0, 1, 1, 0, 9, HOLDER, 0),
        struct.pack("<8I", 3, 0, 1, 1, 0, 0, HOLDER, 2),
        struct.pack("<8I", 3, 0, 1, 1, 0, 0, HOLDER + 1, 0),
        struct.pack("<5I", 0, 2, HOLDER, 1, 1),
        struct.pack("<5I", 1, 0, HOLDER, 1, 1),
        struct.pack("<5I", 1, 2, HOLDER, 1, 77),
        struct.pack("<5I", 1, 2, HOLDER, 0, 1),
    ],
    ids=[
        "nothing", "a number", "many numbers", "cut lock", "cut mutex", "odd address", "readers", "no padding",
        "not shared or not", "somebody else", "free", "never taken", "no kind", "no user",
    ],
)  # fmt: skip
def test_a_number_is_no_lock(data: bytes) -> None:
    assert not found(data)


def test_a_file_of_that_name_that_is_mapped_without_end_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC: a megabyte full of a thread id, mapped 60,000 times, took three hours."""
    full = HOLDER.to_bytes(4, "little") * (1 << 18)
    read: list[int] = []

    def from_memory(_: int, start: int, size: int) -> bytes:
        read.append(start)
        return full[:size]

    monkeypatch.setattr(procmem, "read", from_memory)
    file = SimpleNamespace(path=b"/w/libc.so.6")
    areas = [
        Mapping(at << 21, (at << 21) + len(full), MappingKind.FILE, 3, False, 0, b"", file)  # type: ignore[arg-type]
        for at in range(1, 60_000)
    ]
    process = SimpleNamespace(mappings=areas)
    assert rename_holders(1, process, {HOLDER: 1}) == 0  # type: ignore[arg-type]
    assert read == [at << 21 for at in range(1, 5)]


@pytest.mark.needs("ptrace")
def test_who_was_setting_the_locale_goes_on_under_another_id(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[int] = []

    def rename(*arguments: object) -> int:
        renamed.append(rename_holders(*arguments))  # type: ignore[arg-type]
        return renamed[-1]

    monkeypatch.setattr(drive, "rename_holders", rename)
    running = lab.python(PROGRAM)
    running.wait_for("1000")
    for _ in range(MOST):
        with capture(running.pid, leave=Leave.RUNNING) as checkpoint:
            checkpoint.save(lab.folder / "image")
        with load(lab.folder / "image") as loaded:
            restored = restore(loaded, ids=Ids.NEW)
        try:
            if renamed[-1]:
                break
        finally:
            if not renamed[-1]:
                restored.kill()
                restored.wait()
    else:
        pytest.fail(f"none of {MOST} captures met the lock while it was held")
    running.process.kill()
    running.process.wait()
    length = len(running.text())
    try:
        wait_until(lambda: len(running.text()) > length + 20, "the restored one to go on", 60)
    finally:
        restored.kill()
        restored.wait()
