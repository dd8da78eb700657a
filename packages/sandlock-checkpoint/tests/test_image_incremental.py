"""Incremental images: only what changed is written, the chain is bounded, a parent is the very one that was meant."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_samples import HEAP, PAGE, MadeMemory, big, contents_of, process, sample, thread
from test_image_hostile import edit, refused

from sandlock_checkpoint import image
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.format import MAX_ANCESTORS
from sandlock_checkpoint.memory import Area, Mapping, MappingKind, Run
from sandlock_checkpoint.model import Checkpoint
from sandlock_testkit.profiles import examples

ONE = Area(0, 0)


def changed(*pages: int, letter: bytes = b"c") -> MadeMemory:
    return MadeMemory({(ONE, number * PAGE): letter * PAGE for number in pages})


def nothing_known(area: Area, runs: Sequence[Run]) -> None:
    """A caller who watched nothing."""


def same(path: Path, expected: MadeMemory, checkpoint: Checkpoint) -> None:
    with image.load(path) as loaded:
        assert loaded == checkpoint
        assert contents_of(loaded) == contents_of(dataclasses.replace(checkpoint, source=MadeMemory(expected.changes)))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_only_changed_pages_are_written(tmp_path: Path, compression: str) -> None:
    image.save(big(8 << 20), tmp_path / "base", compression=compression)
    source = changed(3, 700, 701)
    image.save(big(8 << 20, source), tmp_path / "next", parent=tmp_path / "base")
    same(tmp_path / "next", source, big(8 << 20))
    assert image.verify(tmp_path / "next")["inherited_bytes"] == (8 << 20) - 3 * PAGE
    data = (tmp_path / "next/process/memory/0.bin").stat()
    assert data.st_blocks * 512 <= 4 * PAGE


def test_nothing_changed_needs_no_data_file(tmp_path: Path) -> None:
    image.save(sample(), tmp_path / "base")
    image.save(sample(), tmp_path / "next", parent=tmp_path / "base")
    assert list((tmp_path / "next").rglob("memory/*.bin")) == []
    same(tmp_path / "next", MadeMemory(), sample())


def test_an_unchanged_page_is_not_read_where_the_caller_watched(tmp_path: Path) -> None:
    image.save(big(8 << 20), tmp_path / "base")
    source = changed(5)
    asked: list[Area] = []

    def watch(area: Area, runs: Sequence[Run]) -> Sequence[Run]:
        asked.append(area)
        return [Run(5 * PAGE, PAGE)]

    image.save(big(8 << 20, source), tmp_path / "next", parent=tmp_path / "base", changed=watch)
    assert (source.read_bytes, asked) == (PAGE, [ONE])
    same(tmp_path / "next", changed(5), big(8 << 20))


def test_where_the_caller_does_not_know_pages_are_compared(tmp_path: Path) -> None:
    image.save(big(2 << 20), tmp_path / "base")
    source = changed(5)
    image.save(big(2 << 20, source), tmp_path / "next", parent=tmp_path / "base", changed=nothing_known)
    assert source.read_bytes == 2 << 20
    same(tmp_path / "next", changed(5), big(2 << 20))


def test_a_chain_is_read_in_one_step_and_bounded(tmp_path: Path) -> None:
    source = MadeMemory()
    names: list[str] = []
    for number in range(MAX_ANCESTORS + 1):
        source = MadeMemory(source.changes | changed(number).changes)
        name = f"image-{number}"
        image.save(big(1 << 20, source), tmp_path / name, parent=tmp_path / names[-1] if names else None)
        same(tmp_path / name, source, big(1 << 20))
        names.append(name)
    last = image.show(tmp_path / names[-1])
    assert len(last["ancestors"]) == MAX_ANCESTORS  # type: ignore[arg-type]  # a list, as JSON has it
    with pytest.raises(ImageError, match="chain of more than"):
        image.save(big(1 << 20, changed(99)), tmp_path / "more", parent=tmp_path / names[-1])


def test_an_ancestor_that_is_not_needed_is_not_asked_for(tmp_path: Path) -> None:
    image.save(big(PAGE), tmp_path / "base")
    image.save(big(PAGE, changed(0)), tmp_path / "next", parent=tmp_path / "base")
    assert image.show(tmp_path / "next")["ancestors"] == []
    shutil.rmtree(tmp_path / "base")
    same(tmp_path / "next", changed(0), big(PAGE))


def at(start: int, count: int) -> Checkpoint:
    one = Mapping(start, start + count * PAGE, MappingKind.ANONYMOUS, 3, False, 0, b"", runs=(Run(0, count * PAGE),))
    return dataclasses.replace(big(PAGE), processes=(process(threads=(thread(),), mappings=(one,), descriptors=()),))


class ByAddress(MadeMemory):
    """Memory that knows its mapping's address, so that a page is the same whatever mapping it is in."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def read(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        super().read(Area(0, 0), [Run(self.start - HEAP + (1 << 30) + offset, length) for offset, length in runs], into)


@pytest.mark.parametrize("moved", [-4, 0, 4])
def test_a_mapping_that_grew_or_shrank_is_found_by_its_addresses(tmp_path: Path, moved: int) -> None:
    start = HEAP + moved * PAGE
    image.save(dataclasses.replace(at(HEAP, 16), source=ByAddress(HEAP)), tmp_path / "base")
    image.save(dataclasses.replace(at(start, 16), source=ByAddress(start)), tmp_path / "next", parent=tmp_path / "base")
    assert image.show(tmp_path / "next")["inherited_bytes"] == (16 - abs(moved)) * PAGE
    with image.load(tmp_path / "next") as loaded:
        assert contents_of(loaded) == contents_of(dataclasses.replace(at(start, 16), source=ByAddress(start)))


def test_a_parent_must_be_the_one_it_was(tmp_path: Path) -> None:
    image.save(big(PAGE * 4), tmp_path / "base")
    image.save(big(PAGE * 4, changed(1)), tmp_path / "next", parent=tmp_path / "base")
    same(tmp_path / "next", changed(1), big(PAGE * 4))
    (tmp_path / "base").rename(tmp_path / "away")
    refused(tmp_path / "next", "ancestors[0]", "'base'")
    image.save(big(PAGE * 4, changed(2)), tmp_path / "base")
    refused(tmp_path / "next", "another image")
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "base").symlink_to(tmp_path / "away")
    refused(tmp_path / "next", "link")


def test_a_damaged_page_of_the_parent_is_found(tmp_path: Path) -> None:
    image.save(big(PAGE * 4), tmp_path / "base")
    image.save(big(PAGE * 4, changed(1)), tmp_path / "next", parent=tmp_path / "base")
    data = tmp_path / "base/process/memory/0.bin"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    with pytest.raises(ImageError, match="checksum"):
        image.verify(tmp_path / "next")
    # And a save that compares with it writes the page itself.
    shutil.rmtree(tmp_path / "next")
    image.save(big(PAGE * 4), tmp_path / "next", parent=tmp_path / "base")
    assert image.show(tmp_path / "next")["inherited_bytes"] == 3 * PAGE


def test_an_image_is_not_its_own_ancestor_and_stands_beside_its_parent(tmp_path: Path) -> None:
    image.save(big(PAGE), tmp_path / "base")
    with pytest.raises(ImageError, match="own parent"):
        image.save(big(PAGE), tmp_path / "base", parent=tmp_path / "base")
    (tmp_path / "other").mkdir()
    with pytest.raises(ImageError, match="not in the directory"):
        image.save(big(PAGE), tmp_path / "other/next", parent=tmp_path / "base")
    assert os.listdir(tmp_path / "other") == []
    image.verify(tmp_path / "base")


@pytest.mark.parametrize(
    "change",
    [
        {"ancestor": 1}, {"process": 7}, {"index": 9}, {"process": -2}, {"shift": 1}, {"shift": -(1 << 63)},
        {"runs": []},
        {"runs": [0, 1 << 40]}, {"runs": [0, 4096, 0, 4096]}, {"runs": [0, 0]}, {"shift": 4096},
    ],
)  # fmt: skip
def test_lies_about_what_is_inherited_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    image.save(big(PAGE * 4), tmp_path / "base")
    image.save(big(PAGE * 4, changed(1)), tmp_path / "next", parent=tmp_path / "base")
    image.load(tmp_path / "next").close()
    edit(
        tmp_path / "next",
        "process/memory_map.json",
        lambda found: found["mappings"][0]["contents"]["inherited"][0].update(change),
    )
    refused(tmp_path / "next", "contents")


def test_own_and_inherited_pages_do_not_overlap(tmp_path: Path) -> None:
    image.save(big(PAGE * 4), tmp_path / "base")
    image.save(big(PAGE * 4, changed(1)), tmp_path / "next", parent=tmp_path / "base")

    def overlap(found: dict[str, list[dict[str, dict[str, list[dict[str, list[int]]]]]]]) -> None:
        found["mappings"][0]["contents"]["inherited"][0]["runs"] = [0, 4 * PAGE]

    edit(tmp_path / "next", "process/memory_map.json", overlap)
    refused(tmp_path / "next", "twice")


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(st.sets(st.integers(0, 600), max_size=40), min_size=1, max_size=4), st.sampled_from(["none", "zstd"]))
def test_any_history_reads_as_its_last_state(
    tmp_path_factory: pytest.TempPathFactory, history: list[set[int]], compression: str
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    size = 601 * PAGE
    source = MadeMemory()
    image.save(big(size), folder / "0", compression=compression)
    for number, pages in enumerate(history, 1):
        source = MadeMemory(source.changes | changed(*pages, letter=b"%d" % number).changes)
        image.save(big(size, source), folder / str(number), parent=folder / str(number - 1))
    same(folder / str(len(history)), source, big(size))
    meta = json.loads((folder / str(len(history)) / "meta.json").read_text())
    assert len(meta["ancestors"]) <= len(history)
