"""Lazy restore: memory is mapped from the image, is the process's own once written, and fails loudly."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from process_lab import Lab, Running
from test_restore_confined import confined

from sandlock_checkpoint import Leave, RestoreError, capture, image, load, restore

pytestmark = pytest.mark.needs("ptrace")

# 16 MiB, each page with its own number; then it waits for the flag, looks, writes, forks, and looks again.
PROGRAM = """
import mmap, os, sys, time
PAGES = 4096
area = mmap.mmap(-1, PAGES << 12, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
def number(page):
    return (page * 2654435761 & 0xffffffff).to_bytes(4, "little") * 1024
def check(changed):
    for page in range(PAGES):
        wanted = b"w" * 4096 if page in changed else number(page)
        assert area[page << 12 : page + 1 << 12] == wanted, page
for page in range(PAGES):
    area[page << 12 : page + 1 << 12] = number(page)
print("ready", flush=True)
written = set()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
    if not written and os.path.exists(sys.argv[1] + ".more"):
        written = set(range(1024))
        area[: 1024 << 12] = b"w" * (1024 << 12)
        print("more", flush=True)
if "discard" in sys.argv:
    area.madvise(mmap.MADV_DONTNEED)
    print("zeros" if not any(area[4096:8192]) else "old", flush=True)
    sys.exit()
written |= set(range(0, PAGES, 7))
for page in written:
    area[page << 12 : page + 1 << 12] = b"w" * 4096
child = os.fork()
if not child:
    area[4096:8192] = b"c" * 4096
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
check(written)
print("right", flush=True)
"""


@pytest.fixture
def running(lab: Lab) -> Running:
    running = lab.python(PROGRAM, str(lab.folder / "flag"))
    running.wait_for("ready")
    return running


def mapped(pid: int) -> int:
    """How many bytes of a process are of an image."""
    spans = [line.split()[0] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/memory/" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in (span.split("-") for span in spans))


def test_memory_is_mapped_and_written_to_nobody_elses(lab: Lab, running: Running) -> None:
    """Three at once write to the same pages; the image is the same afterwards, and nothing of it is left open."""
    with lab.take(running) as checkpoint:
        many = [lab.restore(checkpoint, allow={"discard"}, lazy=True) for _ in range(3)]
    assert all(mapped(restored.pid) >= 16 << 20 for restored in many)
    for restored in many:
        fds = [os.readlink(f"/proc/{restored.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{restored.pid}/fd")]
        assert not any("/memory/" in name for name in fds)
    (lab.folder / "flag").touch()
    assert [lab.finish(restored) for restored in many] == [0] * 3
    image.verify(lab.folder / "image2")


def test_what_it_lacks_is_named_and_refused_by_default(lab: Lab) -> None:
    """Memory that is given back reads as it was in the image: shown here, and why nobody gets it unasked."""
    running = lab.python(PROGRAM, str(lab.folder / "flag"), "discard")
    running.wait_for("ready")
    with lab.take(running) as checkpoint:
        with pytest.raises(RestoreError, match="MADV_DONTNEED") as caught:
            restore(checkpoint, lazy=True)
        assert [one.kind for one in caught.value.skipped] == ["discard"]
        (lab.folder / "flag").touch()
        restored = lab.restore(checkpoint, allow={"discard"}, lazy=True)
        assert [one.kind for one in restored.skipped if one.kind != "id"] == ["discard"]
        assert lab.finish(restored) == 0
        assert running.lines() == ["ready", "old"]
        assert lab.finish(lab.restore(checkpoint)) == 0
        assert running.lines() == ["ready", "zeros"]  # the same place of the same file


def test_it_is_captured_whole_again(lab: Lab, running: Running) -> None:
    """The new image does not need the one that the memory was mapped from."""
    with lab.take(running) as checkpoint:
        restored = lab.restore(checkpoint, allow={"discard"}, lazy=True)
    second = lab.keep(restored.pid)
    assert lab.finish(restored) == -signal.SIGKILL
    shutil.rmtree(lab.folder / "image2")
    with second:
        restored = lab.restore(second)
    assert mapped(restored.pid) == 0
    (lab.folder / "flag").touch()
    assert lab.finish(restored) == 0
    assert running.lines() == ["ready", "right"]


def test_its_image_may_be_replaced_and_removed(lab: Lab, running: Running) -> None:
    with lab.take(running) as checkpoint:
        restored = lab.restore(checkpoint, allow={"discard"}, lazy=True)
    with load(lab.folder / "image2") as again:
        again.save(lab.folder / "image2")
    shutil.rmtree(lab.folder / "image2")
    (lab.folder / "flag").touch()
    assert lab.finish(restored) == 0
    assert running.lines() == ["ready", "right"]


def data_file(folder: Path) -> Path:
    """The largest data file of an image."""
    return max(folder.glob("process/memory/*.bin"), key=lambda path: path.stat().st_size)


def test_an_image_that_was_cut_is_refused_and_one_that_is_cut_later_is_deadly(lab: Lab, running: Running) -> None:
    """Never zeros in place of pages."""
    checkpoint = lab.take(running)
    restored = lab.restore(checkpoint, allow={"discard"}, lazy=True)
    data = data_file(lab.folder / "image2")
    os.truncate(data, data.stat().st_size - (1 << 20))
    (lab.folder / "flag").touch()
    assert lab.finish(restored) == -signal.SIGBUS
    with checkpoint, pytest.raises(RestoreError, match="has been cut"):
        restore(checkpoint, allow={"discard"}, lazy=True)
    assert running.lines() == ["ready"]


def test_a_compressed_image_is_copied(lab: Lab, running: Running) -> None:
    lab.take(running).save(lab.folder / "packed", compression="zstd")
    with load(lab.folder / "packed") as checkpoint:
        restored = lab.restore(checkpoint, allow={"discard"}, lazy=True)
    assert mapped(restored.pid) == 0
    (lab.folder / "flag").touch()
    assert lab.finish(restored) == 0
    assert running.lines() == ["ready", "right"]


def test_pages_of_several_images_are_mapped(lab: Lab, running: Running) -> None:
    """An incremental image: some pages are its own, the others its ancestor's."""
    lab.take(running, leave=Leave.RUNNING).close()
    (lab.folder / "flag.more").touch()
    running.wait_for("more")
    with capture(running.pid, leave=Leave.KILLED) as checkpoint:
        checkpoint.save(lab.folder / "later", parent=lab.folder / "image2")
    assert 4 << 20 <= data_file(lab.folder / "later").stat().st_blocks * 512 < 8 << 20
    with load(lab.folder / "later") as checkpoint:
        restored = lab.restore(checkpoint, allow={"discard"}, lazy=True)
    maps = Path(f"/proc/{restored.pid}/maps").read_text()
    assert "/later/process/memory/" in maps
    assert "/image2/process/memory/" in maps
    (lab.folder / "flag").touch()
    assert lab.finish(restored) == 0
    assert running.lines() == ["ready", "more", "right"]


@pytest.mark.needs("landlock", level=1)
def test_the_confined_need_no_access_to_the_image(
    lab: Lab, running: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pages come by the restorer's descriptors; the image lies where the restored may read nothing."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "image"
    lab.take(running).save(elsewhere)
    with load(elsewhere) as checkpoint:
        restored = restore(checkpoint, confined(lab.folder), allow={"discard", "id"}, lazy=True)
    assert mapped(restored.pid) >= 16 << 20
    (lab.folder / "flag").touch()
    assert lab.finish(restored) == 0
    assert running.lines() == ["ready", "right"]
