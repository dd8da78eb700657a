"""renameat2: two names change places, and nothing is replaced by mistake."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sandlock_sys import rename
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import AT_FDCWD


def test_exchange_swaps_a_directory_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("text")
    folder = os.open(tmp_path, os.O_PATH)
    rename.exchange(folder, b"directory", AT_FDCWD, os.fsencode(tmp_path / "file"))
    os.close(folder)
    assert (tmp_path / "directory").read_text() == "text"
    assert (tmp_path / "file").is_dir()


def test_exchange_needs_both(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("text")
    with pytest.raises(SyscallError) as caught:
        rename.exchange(AT_FDCWD, os.fsencode(tmp_path / "one"), AT_FDCWD, os.fsencode(tmp_path / "two"))
    assert (caught.value.call, caught.value.errno) == ("renameat2", errno.ENOENT)
    assert (tmp_path / "one").read_text() == "text"


def test_a_new_name_replaces_nothing(tmp_path: Path) -> None:
    one, two = (os.fsencode(tmp_path / name) for name in ("one", "two"))
    for path in (one, two):
        Path(os.fsdecode(path)).write_bytes(path)
    with pytest.raises(SyscallError) as caught:
        rename.rename_new(AT_FDCWD, one, AT_FDCWD, two)
    assert caught.value.errno == errno.EEXIST
    assert (tmp_path / "two").read_bytes() == two
    (tmp_path / "two").unlink()
    rename.rename_new(AT_FDCWD, one, AT_FDCWD, two)
    assert (tmp_path / "two").read_bytes() == one


def test_a_nul_byte_never_shortens_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NUL"):
        rename.rename_new(AT_FDCWD, b"a\0b", AT_FDCWD, b"c")
