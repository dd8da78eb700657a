"""The kernel's files of a process, damaged: they are read or refused by the parsers' error, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_sys.errors import ProcParseError
from sandlock_sys.proc.smaps import parse_smaps
from sandlock_sys.proc.status import parse_status

PARSERS: dict[str, Callable[[bytes], object]] = {"smaps": parse_smaps, "status": parse_status}
damage = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.mark.parametrize("name", PARSERS)
@given(places=damage, cut=st.integers(0, 200))
def test_a_damaged_file_is_read_or_refused(name: str, places: list[tuple[int, int]], cut: int) -> None:
    text = bytearray(Path("/proc/self", name).read_bytes()[:4096])
    del text[len(text) - cut :]
    for at, byte in places:
        text[at % len(text)] = byte
    with suppress(ProcParseError):
        PARSERS[name](bytes(text))


@pytest.mark.parametrize("name", PARSERS)
def test_the_sound_file_is_read(name: str) -> None:
    assert PARSERS[name](Path("/proc/self", name).read_bytes())
