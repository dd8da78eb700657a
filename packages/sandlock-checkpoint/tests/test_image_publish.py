"""Whatever stops a save, the name stands for a whole image: the old one or the new one; and litter is cleared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from image_samples import PAGE, MadeMemory, big, contents_of, sample

from sandlock_checkpoint import image
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image import publish
from sandlock_checkpoint.memory import Area
from sandlock_sys import rename
from sandlock_sys.errors import SyscallError

OLD = {(Area(0, 0), 0): b"o" * PAGE}
NEW = {(Area(0, 0), 0): b"n" * PAGE}


def first_page(path: Path) -> bytes:
    with image.load(path) as loaded:
        return contents_of(loaded)[Area(0, 0), 0][:1]


def test_a_save_replaces_an_image_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for changes, letter in ((OLD, b"o"), (NEW, b"n")):
        image.save(big(PAGE, MadeMemory(changes)), tmp_path / "image")
        assert first_page(tmp_path / "image") == letter
        assert os.listdir(tmp_path) == ["image"]


@pytest.mark.parametrize("name", ["home", "file", "mixed", "strange"])
def test_nothing_but_an_image_is_ever_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "file":
        path.write_text("precious")
    else:
        image.save(big(PAGE), path) if name != "home" else path.mkdir()
        inner = path / ("process/threads/precious" if name == "strange" else "precious")
        inner.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ImageError, match="nothing was written"):
        image.save(big(PAGE), path)
    with pytest.raises(ImageError):
        publish.remove_image(str(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_directory_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    image.save(big(PAGE, MadeMemory(NEW)), tmp_path / "image")
    assert first_page(tmp_path / "image") == b"n"


def test_a_link_is_not_followed_by_a_save(tmp_path: Path) -> None:
    image.save(big(PAGE, MadeMemory(OLD)), tmp_path / "image")
    (tmp_path / "link").symlink_to("image")
    with pytest.raises(ImageError):
        image.save(big(PAGE, MadeMemory(NEW)), tmp_path / "link")
    assert first_page(tmp_path / "image") == b"o"


@pytest.mark.parametrize("name", ["a" * 250, ".."])
def test_a_name_must_leave_room(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError):
        image.save(big(PAGE), tmp_path / name / "..") if name == ".." else image.save(big(PAGE), tmp_path / name)
    image.save(big(PAGE), tmp_path / ("a" * 200))


def test_names_that_differ_behind_a_dot_do_not_meet(tmp_path: Path) -> None:
    # The seeds' mistake: a.b and a.c were both written to a.tmp.
    barrier = threading.Barrier(2)

    def one(name: str, letter: bytes) -> None:
        barrier.wait()
        for _ in range(5):
            image.save(big(PAGE, MadeMemory({(Area(0, 0), 0): letter * PAGE})), tmp_path / name)

    threads = [threading.Thread(target=one, args=pair) for pair in (("a.b", b"b"), ("a.c", b"c"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (first_page(tmp_path / "a.b"), first_page(tmp_path / "a.c")) == (b"b", b"c")
    assert sorted(os.listdir(tmp_path)) == ["a.b", "a.c"]


def test_savers_and_readers_of_one_name_never_see_half(tmp_path: Path) -> None:
    path = tmp_path / "image"
    image.save(big(PAGE, MadeMemory(OLD)), path)
    stop = threading.Event()
    failures: list[BaseException] = []

    def saver(letter: bytes) -> None:
        try:
            while not stop.is_set():
                image.save(big(PAGE, MadeMemory({(Area(0, 0), 0): letter * PAGE})), path)
        except (ImageError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=saver, args=(letter,)) for letter in (b"x", b"y")]
    for thread in threads:
        thread.start()
    seen = set()
    began = time.monotonic()
    while not failures and (elapsed := time.monotonic() - began) < 30:
        seen.add(first_page(path))
        if elapsed > 1 and seen >= {b"x", b"y"}:
            break
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert seen >= {b"x", b"y"}
    image.save(big(PAGE, MadeMemory(OLD)), path)
    assert os.listdir(tmp_path) == ["image"]


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from sandlock_sys import rename
from image_samples import PAGE, MadeMemory, big
from sandlock_checkpoint import image
from sandlock_checkpoint.memory import Area
calls = 0
def count(frame, event, argument):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
names = ("write", "pwrite", "fsync", "mkdir", "open", "ftruncate", "unlink", "rmdir", "listdir")
def wrap(function):
    def call(*arguments, **named):
        count(None, None, None)
        return function(*arguments, **named)
    return call
for name in names:
    setattr(os, name, wrap(getattr(os, name)))
rename.exchange = wrap(rename.exchange)
image.save(big(PAGE, MadeMemory({{(Area(0, 0), 0): b"n" * PAGE}})), {target!r}, threads=1)
print(calls)
"""


def test_sigkill_at_every_step_leaves_one_whole_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    image.save(big(PAGE, MadeMemory(OLD)), path)
    seen = []
    at, done = 1, False
    while not done:
        code = KILLED.format(path=sys.path, at=at, target=str(path))
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        done = child.returncode == 0
        assert done or child.returncode == -signal.SIGKILL, child.stderr
        seen.append(first_page(path))
        if seen[-1] == b"n":  # the kill came late: begin again from the old one
            image.save(big(PAGE, MadeMemory(OLD)), path)
        at += 3 if at > 12 else 1
    assert {b"o", b"n"} == set(seen)
    assert seen[-1] == b"n"
    assert len(seen) > 15
    assert os.listdir(tmp_path) == ["image"]


def test_another_savers_work_is_not_swept(tmp_path: Path) -> None:
    with publish.NewImage(str(tmp_path / "image")) as slow:
        slow.write("policy.json", b"x")
        image.save(big(PAGE), tmp_path / "image")
        assert len(os.listdir(tmp_path)) == 2
        assert os.stat("policy.json", dir_fd=slow.fd).st_nlink == 1
    assert os.listdir(tmp_path) == ["image"]


def test_what_only_looks_like_litter_is_left(tmp_path: Path) -> None:
    name = ".image.0123456789abcdef.sandlock-new"
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").write_text("precious")
    (tmp_path / ".image.fedcba9876543210.sandlock-new").symlink_to(tmp_path / name)
    (tmp_path / ".other.0123456789abcdef.sandlock-new").mkdir()
    (tmp_path / ".image.1111111111111111.sandlock-new").mkdir()
    image.save(big(PAGE), tmp_path / "image")
    assert (tmp_path / name / "precious").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == [
        name, ".image.fedcba9876543210.sandlock-new", ".other.0123456789abcdef.sandlock-new", "image",
    ]  # fmt: skip


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_full_disk_leaves_the_old_image_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    path = tmp_path / "image"
    image.save(big(PAGE, MadeMemory(OLD)), path)
    reasons = set()
    for call in ("write", "pwrite", "ftruncate", "fsync"):
        real = getattr(os, call)
        for fail_at in range(12):
            left = [fail_at]

            def full(*arguments: Any, real: Any = real, left: list[int] = left) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(28, "No space left on device")
                return real(*arguments)

            source = MadeMemory(NEW)
            with monkeypatch.context() as patch:
                patch.setattr(os, call, full)
                try:
                    image.save(big(PAGE, source), path, compression=compression)
                except ImageError as error:
                    reasons.add((str(error).rpartition(": ")[2], type(error.__cause__)))
            assert source.closed
            if left[0] < 0 and call != "fsync":
                assert first_page(path) == b"o"
            if first_page(path) == b"n":
                image.save(big(PAGE, MadeMemory(OLD)), path)
            assert os.listdir(tmp_path) == ["image"]
    assert reasons == {("No space left on device", OSError)}


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:1000], offset))
    saved = sample()
    image.save(saved, tmp_path / "image")
    monkeypatch.undo()
    image.verify(tmp_path / "image")
    with image.load(tmp_path / "image") as loaded:
        assert loaded == saved


def test_a_source_that_fails_leaves_nothing_and_is_closed(tmp_path: Path) -> None:
    class Broken(MadeMemory):
        def read(self, area: Area, runs: Any, into: memoryview) -> None:
            if self.read_bytes:
                raise ProcessLookupError("gone")
            super().read(area, runs, into)

    source = Broken()
    with pytest.raises(ImageError, match="gone"):
        image.save(big(4 << 20, source), tmp_path / "image")
    assert source.closed
    assert os.listdir(tmp_path) == []


def test_every_file_and_directory_is_synced_before_the_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    exchanged: list[int] = []
    real, rename_new = os.fsync, rename.rename_new

    def sync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    def exchange(*names: Any) -> None:
        exchanged.append(len(synced))
        rename_new(*names)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(rename, "rename_new", exchange)
    image.save(sample(), tmp_path / "image")
    before = {path.partition(".sandlock-new")[2].lstrip("/") for path in synced[: exchanged[0]]}
    below = {str(path.relative_to(tmp_path / "image")) for path in (tmp_path / "image").rglob("*")}
    assert before == below | {""}
    assert synced[exchanged[0] :] == [str(tmp_path)]


def test_a_file_system_without_exchange_is_told_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*names: object) -> None:
        raise SyscallError("renameat2", 22)

    monkeypatch.setattr(rename, "exchange", missing)
    monkeypatch.setattr(rename, "rename_new", missing)
    image.save(big(PAGE, MadeMemory(OLD)), tmp_path / "image")
    with pytest.raises(ImageError, match="cannot exchange"):
        image.save(big(PAGE, MadeMemory(NEW)), tmp_path / "image")
    assert first_page(tmp_path / "image") == b"o"
    assert os.listdir(tmp_path) == ["image"]
