"""What is saved is what is loaded: every field, every page, in every layout."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_samples import HEAP, PAGE, MadeMemory, big, contents_of, files_below, process, sample, thread

from sandlock_checkpoint import image
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.format import SPARSE_LIMIT
from sandlock_checkpoint.image.layout import intersect, merge, subtract
from sandlock_checkpoint.memory import Area, Mapping, MappingKind, Run
from sandlock_checkpoint.model import Checkpoint
from sandlock_testkit.profiles import examples


def pages(checkpoint: Checkpoint) -> dict[tuple[Area, int], bytes]:
    return contents_of(dataclasses.replace(checkpoint, source=MadeMemory()))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, compression: str) -> None:
    source = MadeMemory()
    saved = sample(source)
    image.save(saved, tmp_path / "image", compression=compression)
    assert source.closed
    with image.load(tmp_path / "image") as loaded:
        assert loaded == saved
        assert contents_of(loaded) == pages(saved)


def test_an_image_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        image.save(sample(), tmp_path / "image")
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(entry.stat().st_mode) for entry in (tmp_path / "image").rglob("*") if entry.is_file()}
    folders = {stat.S_IMODE(entry.stat().st_mode) for entry in (tmp_path / "image").rglob("*") if entry.is_dir()}
    assert (modes, folders, stat.S_IMODE((tmp_path / "image").stat().st_mode)) == ({0o600}, {0o700}, 0o700)


def test_checksums_are_those_that_sha256sum_makes(tmp_path: Path) -> None:
    image.save(sample(), tmp_path / "image")
    meta = json.loads((tmp_path / "image/meta.json").read_text())
    listed = {one["name"]: one for one in meta["files"]}
    found = files_below(tmp_path / "image")
    assert set(listed) | {"meta.json"} == set(found)
    for name, one in listed.items():
        assert len(found[name]) == one["size"]
        if "/memory/" not in name:
            assert hashlib.sha256(found[name]).hexdigest() == one["sha256"]
    assert "näme" in meta["name"]


def test_the_digest_names_the_image(tmp_path: Path) -> None:
    first = image.save(sample(), tmp_path / "one")
    assert image.save(sample(), tmp_path / "two") == first
    assert image.save(sample(MadeMemory({(Area(0, 0), 0): b"x" * PAGE})), tmp_path / "three") != first
    assert image.show(tmp_path / "one")["digest"] == first


def test_what_was_never_touched_costs_nothing_on_disk(tmp_path: Path) -> None:
    runs = (Run(0, PAGE), Run((1 << 30) - PAGE, PAGE))
    image.save(big(1 << 30, runs=runs), tmp_path / "image")
    status = (tmp_path / "image/process/memory/0.bin").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20
    with image.load(tmp_path / "image") as loaded:
        assert len(contents_of(loaded)) == 2


def test_pages_of_zeros_are_holes_and_come_back(tmp_path: Path) -> None:
    class Zeros(MadeMemory):
        def read(self, area: Area, runs: object, into: memoryview) -> None:
            into[:] = bytes(len(into))

    image.save(big(8 << 20, Zeros()), tmp_path / "image")
    assert (tmp_path / "image/process/memory/0.bin").stat().st_blocks * 512 < 1 << 20
    with image.load(tmp_path / "image") as loaded:
        assert set(contents_of(loaded).values()) == {bytes(PAGE)}


def test_an_area_larger_than_files_may_be_is_packed(tmp_path: Path) -> None:
    end = SPARSE_LIMIT + 64 * PAGE
    one = Mapping(
        HEAP, HEAP + end, MappingKind.ANONYMOUS, 3, False, 0, b"", runs=(Run(PAGE, PAGE), Run(end - PAGE, PAGE))
    )
    saved = dataclasses.replace(big(PAGE), processes=(process(threads=(thread(),), mappings=(one,), descriptors=()),))
    image.save(saved, tmp_path / "image")
    assert (tmp_path / "image/process/memory/0.bin").stat().st_size == 2 * PAGE
    with image.load(tmp_path / "image") as loaded:
        assert contents_of(loaded) == pages(saved)
        location = loaded.source.locate(Area(0, 0), Run(end - PAGE, PAGE))
        assert location is not None
        assert location.offset == PAGE


def test_many_small_runs_are_packed(tmp_path: Path) -> None:
    runs = tuple(Run(number * 2 * PAGE, PAGE) for number in range(600))
    mapping = dataclasses.replace(big(1200 * PAGE).processes[0].mappings[0], runs=runs)
    whole = big(1200 * PAGE)
    saved = dataclasses.replace(whole, processes=(dataclasses.replace(whole.processes[0], mappings=(mapping,)),))
    image.save(saved, tmp_path / "image")
    assert (tmp_path / "image/process/memory/0.bin").stat().st_size == 600 * PAGE
    with image.load(tmp_path / "image") as loaded:
        assert loaded == saved
        assert contents_of(loaded) == pages(saved)


def test_contents_that_no_run_has_are_found(tmp_path: Path) -> None:
    image.save(sample(), tmp_path / "image")
    image.verify(tmp_path / "image")
    with (tmp_path / "image/process-1/memory/1.bin").open("r+b") as file:
        file.write(b"\0\1")
    with pytest.raises(ImageError, match="has contents behind 0"):
        image.verify(tmp_path / "image")


def test_a_located_run_is_where_it_says(tmp_path: Path) -> None:
    saved = big(3 << 20, runs=(Run(PAGE, 2 * PAGE), Run(1 << 20, 2 << 20)))
    image.save(saved, tmp_path / "image")
    with image.load(tmp_path / "image") as loaded:
        for run in (Run(2 * PAGE, PAGE), Run((1 << 20) + PAGE, 1 << 20)):
            location = loaded.source.locate(Area(0, 0), run)
            assert location is not None
            expected = bytearray(run.length)
            MadeMemory().read(Area(0, 0), [run], memoryview(expected))
            assert os.pread(location.fd, run.length, location.offset) == expected
        assert loaded.source.locate(Area(0, 0), Run(0, PAGE)) is None
        assert loaded.source.locate(Area(0, 9), Run(0, PAGE)) is None
    image.save(big(1 << 20), tmp_path / "packed", compression="zstd")
    with image.load(tmp_path / "packed") as loaded:
        assert loaded.source.locate(Area(0, 0), Run(0, PAGE)) is None


def test_any_part_of_the_runs_can_be_read(tmp_path: Path) -> None:
    image.save(big(5 << 20), tmp_path / "image")
    with image.load(tmp_path / "image") as loaded:
        for run in (Run(PAGE, PAGE), Run((1 << 20) - PAGE, 2 * PAGE), Run(PAGE, 4 << 20)):
            found, expected = bytearray(run.length), bytearray(run.length)
            loaded.source.read(Area(0, 0), [run], memoryview(found))
            MadeMemory().read(Area(0, 0), [run], memoryview(expected))
            assert found == expected


def test_nothing_is_filled_in_where_no_run_is(tmp_path: Path) -> None:
    image.save(big(1 << 20, runs=(Run(0, PAGE),)), tmp_path / "image")
    with image.load(tmp_path / "image") as loaded:
        for area, run in ((Area(0, 0), Run(PAGE, PAGE)), (Area(0, 0), Run(0, 2 * PAGE)), (Area(3, 1), Run(0, PAGE))):
            with pytest.raises(ImageError):
                loaded.source.read(area, [run], memoryview(bytearray(run.length)))
    with pytest.raises(ImageError, match="closed"):
        loaded.source.read(Area(0, 0), [Run(0, PAGE)], memoryview(bytearray(PAGE)))


def test_a_loaded_image_outlives_its_removal(tmp_path: Path) -> None:
    saved = sample()
    image.save(saved, tmp_path / "image")
    loaded = image.load(tmp_path / "image")
    image.save(big(PAGE), tmp_path / "image")
    assert contents_of(loaded) == pages(saved)
    assert len(os.listdir(tmp_path)) == 2  # kept for the reader
    loaded.close()
    image.save(big(PAGE), tmp_path / "image")
    assert os.listdir(tmp_path) == ["image"]


def test_a_loaded_checkpoint_can_be_saved_again_in_place(tmp_path: Path) -> None:
    saved = sample()
    image.save(saved, tmp_path / "image")
    image.save(image.load(tmp_path / "image"), tmp_path / "image", compression="zstd")
    with image.load(tmp_path / "image") as loaded:
        assert loaded == saved
        assert contents_of(loaded) == pages(saved)
    assert os.listdir(tmp_path) == ["image"]


def test_a_branch_is_saved_with_its_links_modes_and_times(tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    (branch / "folder").mkdir(parents=True)
    (branch / "folder/file").write_bytes(b"text" * 1000 + bytes(1 << 20))
    (branch / "folder/file").chmod(0o640)
    os.setxattr(branch / "folder", "user.overlay.opaque", b"y")
    (branch / "link").symlink_to("/etc/shadow")
    os.mkfifo(branch / "fifo")
    os.utime(branch / "folder", ns=(1, 1_000_000_000_000_000_007))
    image.save(sample(cow=str(branch)), tmp_path / "image")
    with image.load(tmp_path / "image") as loaded:
        assert loaded.cow == str(tmp_path / "image/cow")
    copy = tmp_path / "image/cow"
    assert (copy / "folder/file").read_bytes() == (branch / "folder/file").read_bytes()
    assert stat.S_IMODE((copy / "folder/file").stat().st_mode) == 0o640
    assert (copy / "folder").stat().st_mtime_ns == 1_000_000_000_000_000_007
    assert os.getxattr(copy / "folder", "user.overlay.opaque") == b"y"
    assert os.readlink(copy / "link") == "/etc/shadow"
    assert stat.S_ISFIFO((copy / "fifo").stat().st_mode)
    os.removexattr(copy / "folder", "user.overlay.opaque")
    with pytest.raises(ImageError, match="cow: has been changed"):
        image.load(tmp_path / "image")


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    image.save(big(5 << 20), tmp_path / "image", progress=lambda done, size: told.append((done, size)))
    assert told == [(n << 20, 5 << 20) for n in range(1, 6)]
    told.clear()
    image.verify(tmp_path / "image", progress=lambda done, size: told.append((done, size)))
    assert told[-1] == (5 << 20, 5 << 20)


def test_show_is_plain_data(tmp_path: Path) -> None:
    image.save(sample(), tmp_path / "image")
    shown = json.loads(json.dumps(image.show(tmp_path / "image")))
    assert shown["processes"][0]["pid"] == 100
    assert shown["contents_bytes"] == sum(len(one) for one in pages(sample()).values())
    assert image.verify(tmp_path / "image") == shown


MEMORY = """
import sys
sys.path[:0] = {path!r}
from image_samples import MadeMemory, big
from sandlock_checkpoint import image
class Quick(MadeMemory):
    def read(self, area, runs, into):
        into[:] = block[: len(into)]
block = bytes(range(256)) * 4096
image.save(big(16 << 20, Quick()), {target!r}, compression={compression!r})
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark begins again: the process that started this one was larger
def highest():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
before = highest()
image.save(big(512 << 20, Quick()), {target!r}, compression={compression!r})
image.verify({target!r})
print(before, highest())
"""


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_memory_does_not_grow_with_the_target(tmp_path: Path, compression: str) -> None:
    code = MEMORY.format(path=sys.path, target=str(tmp_path / "image"), compression=compression)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 96 << 10  # KiB: the interpreter with its modules, and at most 64 MiB of ours
    assert after - before < 64 << 10


RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12).map(
    lambda pairs: tuple(merge(_disjoint(pairs)))
)


def _disjoint(pairs: list[tuple[int, int]]) -> list[Run]:
    taken = sorted({page for start, count in pairs for page in range(start, start + count)})
    return [Run(page * PAGE, PAGE) for page in taken]


def _pages(runs: list[Run] | tuple[Run, ...]) -> set[int]:
    return {place for offset, length in runs for place in range(offset, offset + length, PAGE)}


@given(RUNS, RUNS)
def test_arithmetic_on_runs_is_that_of_sets(one: tuple[Run, ...], two: tuple[Run, ...]) -> None:
    assert _pages(intersect(one, two)) == _pages(one) & _pages(two)
    assert _pages(subtract(one, two)) == _pages(one) - _pages(two)
    assert _pages(merge(one)) == _pages(one)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.sampled_from(["none", "zstd"]))
def test_any_runs_come_back(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], compression: str) -> None:
    runs, offset = [], 0
    for index, length in enumerate(lengths):
        runs.append(Run(offset, length * PAGE))
        offset += (length + index % 3) * PAGE  # some are next to each other, some apart
    path = tmp_path_factory.mktemp("image") / "image"
    saved = big(offset + PAGE, runs=tuple(runs))
    image.save(saved, path, compression=compression)
    with image.load(path) as loaded:
        assert loaded == saved
        assert contents_of(loaded) == pages(saved)
