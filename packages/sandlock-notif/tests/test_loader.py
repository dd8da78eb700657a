"""Copies of programs that name another loader: they cost this process's memory, so holes and sizes are looked at."""

from __future__ import annotations

import os
from errno import ENOMEM
from pathlib import Path

import pytest

from sandlock_notif.fs import loader
from sandlock_notif.fs.loader import Loaders, interpreter_of


def _copied(program: Path) -> os.stat_result:
    loaders = Loaders()
    fd = os.open(program, os.O_RDONLY)
    try:
        found = interpreter_of(fd)
        assert found is not None
        copy = loaders.copy(fd, found[1], b"/own/loader", b"/program")
        try:
            changed = interpreter_of(copy)
            assert changed is not None
            assert changed[0] == b"/own/loader"
            return os.fstat(copy)
        finally:
            os.close(copy)
    finally:
        os.close(fd)
        loaders.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "program"
    made.write_bytes(Path("/bin/true").read_bytes())
    return made


def test_pr08_a_hole_in_a_program_takes_no_memory(program: Path) -> None:
    """A program of many GiB, of which nothing is on disk, filled the memory of the machine, whatever max_memory was."""
    plain = _copied(program)
    os.truncate(program, 1 << 30)
    assert _copied(program).st_blocks * 512 < plain.st_blocks * 512 + (1 << 20)
    os.truncate(program, 0)


def test_pr08_a_program_too_large_to_copy_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = program.stat().st_size
    monkeypatch.setattr(loader, "_LARGEST", size - 4096)
    with pytest.raises(OSError, match="too large") as failure:
        _copied(program)
    assert failure.value.errno == ENOMEM
    monkeypatch.setattr(loader, "_LARGEST", size + 4096)
    assert _copied(program).st_size > size
