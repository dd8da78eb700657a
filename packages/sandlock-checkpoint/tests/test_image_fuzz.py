"""An image cut or changed anywhere: a typed error or the same checkpoint, never anything else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_samples import files_below, sample, small
from test_image_hostile import reseal

from sandlock_checkpoint import image
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.strict_json import Json
from sandlock_checkpoint.model import Checkpoint
from sandlock_testkit.profiles import examples


def outcome(path: Path, saved: Checkpoint) -> bool:
    """Tell whether the image still loads, which it may only as what was saved."""
    try:
        with image.load(path) as loaded:
            assert loaded == saved
    except ImageError as error:
        return not (error.file and error.reason)
    return True


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "image"
    image.save(small(), path)
    return path


METADATA = ["meta.json", "policy.json", "app_state.bin", "process/info.json", "process/fds.json",
            "process/memory_map.json", "process/threads/0.json", "process/threads/0.general.bin"]  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_a_bit_flipped_at_every_byte_of_the_metadata(tiny: Path, name: str) -> None:
    saved = small()
    data = (tiny / name).read_bytes()
    same = []
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        (tiny / name).write_bytes(damaged)
        if outcome(tiny, saved):
            same.append(position)
    (tiny / name).write_bytes(data)
    assert outcome(tiny, saved)
    # Only in meta.json, which is sealed by what it says, may a byte mean nothing: the line's end.
    assert same in ([], [len(data) - 1])
    assert not same or name == "meta.json"


@pytest.mark.parametrize("name", METADATA)
def test_cut_at_every_byte_of_the_metadata(tiny: Path, name: str) -> None:
    saved = small()
    data = (tiny / name).read_bytes()
    for length in range(len(data)):
        (tiny / name).write_bytes(data[:length])
        if outcome(tiny, saved):
            assert (name, length) == ("meta.json", len(data) - 1)
    (tiny / name).write_bytes(data)
    assert outcome(tiny, saved)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_any_file_of_a_bigger_image(bigger: Path, data: st.DataObject) -> None:
    files = files_below(bigger)
    name = data.draw(st.sampled_from(sorted(files)))
    good = bytearray(files[name])
    start = data.draw(st.integers(0, len(good)))
    good[start : start + data.draw(st.integers(0, 64))] = data.draw(st.binary(max_size=64))
    (bigger / name).write_bytes(good)
    try:
        if outcome(bigger, sample()) and bytes(good) != files[name]:
            assert name == "meta.json" or "/memory/" in name
            if "/memory/" in name:
                with pytest.raises(ImageError):
                    image.verify(bigger)
    finally:
        (bigger / name).write_bytes(files[name])


@pytest.fixture(scope="module")
def bigger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "image"
    image.save(sample(), path)
    return path


def places(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


WEIRD: list[Json] = [
    None, True, False, 0, -1, 1, 7, 1 << 31, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), -(1 << 65), "", "x", "..",
    "/",
    "../../x", "\0", "\ud800", "x" * 5000, [], [[]], [0], [0, 0], {}, {"is": "NamedFile"}, [None] * 1000,
]  # fmt: skip


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_ck_05_any_value_anywhere_with_right_checksums(bigger: Path, data: st.DataObject) -> None:
    files = files_below(bigger)
    name = data.draw(st.sampled_from([one for one in sorted(files) if one.endswith(".json")]))
    value = json.loads(files[name])
    place = data.draw(st.sampled_from(list(places(value))))
    weird = data.draw(st.sampled_from(WEIRD) | st.integers(-(1 << 66), 1 << 66) | st.text(max_size=5))
    if place and name != "meta.json":
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = weird
        changed = json.dumps(value).encode()
    else:
        changed = json.dumps(weird).encode()
    try:
        if name == "meta.json":
            (bigger / name).write_bytes(changed)
        else:
            reseal(bigger, {name: changed})
        try:
            with image.load(bigger) as loaded:
                # It may be another checkpoint now, but a sound one: it can be saved, and is the same again.
                again = bigger.parent / "again"
                image.save(dataclasses.replace(loaded, source=loaded.source), again)
                with image.load(again) as twice:
                    assert twice == loaded
                shutil.rmtree(again)
        except ImageError as error:
            if not error.file:
                raise
    finally:
        for one in (name, "meta.json"):
            (bigger / one).write_bytes(files[one])
