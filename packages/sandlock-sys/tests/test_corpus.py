"""The kernel's text about processes, which programs have a say in (names, paths): read, or refused by one error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_sys.errors import ProcParseError
from sandlock_sys.proc.fds import parse_fdinfo
from sandlock_sys.proc.maps import parse_maps
from sandlock_sys.proc.smaps import parse_smaps
from sandlock_sys.proc.stat import parse_stat
from sandlock_sys.proc.status import parse_status
from sandlock_testkit.corpus import REFUSED, grown, seeds

CORPUS = Path(__file__).parent / "corpus"
PARSERS: dict[str, Callable[[bytes], object]] = {
    "stat": parse_stat,
    "status": parse_status,
    "maps": parse_maps,
    "smaps": parse_smaps,
    "fdinfo": parse_fdinfo,
}


def fault(name: str, content: bytes) -> str:
    """Return why an input is refused, "" where it is read."""
    try:
        PARSERS[name](content)
    except ProcParseError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_read_but_for_what_must_be_refused(name: str) -> None:
    for file, content in seeds(CORPUS / name).items():
        assert bool(fault(name, content)) is file.startswith(REFUSED), file


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_what_grows_from_it_is_read_or_refused(name: str, data: st.DataObject) -> None:
    fault(name, data.draw(grown(CORPUS / name)))
