"""The named store: names are one component, the store is the user's alone, and a needed image stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from image_samples import PAGE, MadeMemory, big, sample

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.memory import Area
from sandlock_checkpoint.store import Store, default_store


def test_save_list_load_delete(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep/store")
    assert store.list() == []
    saved = sample()
    store.save(saved, "one")
    big(PAGE).save("two.zstd", store=store, compression="zstd")
    assert store.list() == ["one", "two.zstd"]
    with store.load("one") as loaded:
        assert loaded == saved
    store.delete("one")
    assert store.list() == os.listdir(store.path) == ["two.zstd"]
    with pytest.raises(ImageError, match="no such"):
        store.load("one")
    with pytest.raises(ImageError, match="no such image"):
        store.delete("one")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "../x", ".hidden", "a\0b", "x" * 256])
def test_ck_04_a_name_is_one_component(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    store.save(big(PAGE), "fine")
    source = MadeMemory()
    with pytest.raises(ImageError):
        store.save(big(PAGE, source), name)
    assert source.closed
    for call in (store.load, store.delete):
        with pytest.raises(ImageError):
            call(name)
    assert (os.listdir(tmp_path), os.listdir(store.path)) == (["store"], ["fine"])


def test_ck_09_the_store_is_the_users_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Store(tmp_path / "a/b/store").save(big(PAGE), "one")
    finally:
        os.umask(old)
    store = Store(tmp_path / "a/b/store")
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o700
    os.chmod(store.path, 0o750)  # noqa: S103 - what is refused below
    for call in (
        lambda: store.save(big(PAGE), "two"),
        lambda: store.load("one"),
        store.list,
        lambda: store.delete("one"),
    ):
        with pytest.raises(ImageError, match="others have rights"):
            call()
    os.chmod(store.path, 0o700)
    assert store.list() == ["one"]


def test_an_image_that_others_need_is_neither_deleted_nor_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tmp_path.chmod(0o700)
    store.save(big(4 * PAGE), "base")
    store.save(big(4 * PAGE, MadeMemory({(Area(0, 0), 0): b"c" * PAGE})), "next", parent="base")
    with pytest.raises(ImageError, match="needed by next"):
        store.delete("base")
    with pytest.raises(ImageError, match="needed by next"):
        store.save(big(PAGE), "base")
    store.load("next").close()
    store.delete("next")
    store.delete("base")
    assert store.list() == []


def test_the_default_store_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_store() == Store().path == str(tmp_path / "sandlock/checkpoints")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_store() == "/home/someone/.local/state/sandlock/checkpoints"
