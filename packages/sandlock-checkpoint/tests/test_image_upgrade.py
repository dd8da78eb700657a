"""Images of older versions are read, and rewritten on demand. `data/image-0` was written by hand as version 0."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from image_samples import MadeMemory, contents_of, small

from sandlock_checkpoint import image
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.format import VERSION
from sandlock_checkpoint.image.upgrade import upgrade

FIXTURE = Path(__file__).parent / "data/image-0"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    # A checkout has other modes than an image.
    path = tmp_path / "image"
    shutil.copytree(FIXTURE, path)
    for folder, _, names in os.walk(path):
        os.chmod(folder, 0o700)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o600)
    return path


def test_the_fixture_is_version_0(old: Path) -> None:
    assert json.loads((old / "meta.json").read_text())["version"] == 0 < VERSION


def test_an_older_image_is_read_as_it_is(old: Path) -> None:
    with image.load(old) as loaded:
        assert loaded == small()
        assert contents_of(loaded) == contents_of(small())


def test_an_older_image_is_rewritten_in_place(old: Path) -> None:
    assert upgrade(old) is True
    assert json.loads((old / "meta.json").read_text())["version"] == VERSION
    with image.load(old) as loaded:
        assert loaded == small()
        assert contents_of(loaded) == contents_of(small())
    assert upgrade(old) is False
    assert os.listdir(old.parent) == ["image"]


def test_an_older_image_is_trusted_no_more_than_a_new_one(old: Path) -> None:
    for name in ("process/info.json", "process/memory_map.json", "process/threads/0.general.bin"):
        data = (old / name).read_bytes()
        (old / name).write_bytes(data.replace(b"1", b"2", 1))
        with pytest.raises(ImageError, match=name):
            image.load(old)
        (old / name).write_bytes(data)
    meta = json.loads((old / "meta.json").read_text())
    changes: tuple[dict[str, object], ...] = (
        {"checksums": []},
        {"checksums": {"../x": "0" * 64}},
        {"threads": [1]},
        {"threads": True},
        {"checksums": {}},
    )
    for change in changes:
        (old / "meta.json").write_text(json.dumps(meta | change))
        with pytest.raises(ImageError):
            image.load(old)
    (old / "meta.json").write_text(json.dumps(meta))
    image.load(old).close()


def test_a_newer_image_is_refused_with_what_to_do(tmp_path: Path) -> None:
    image.save(small(), tmp_path / "image")
    meta = json.loads((tmp_path / "image/meta.json").read_text()) | {"version": VERSION + 1}
    (tmp_path / "image/meta.json").write_text(json.dumps(meta))
    with pytest.raises(ImageError, match="a newer sandlock-checkpoint reads it"):
        image.load(tmp_path / "image")
    assert MadeMemory().closed == 0
