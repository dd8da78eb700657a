"""The text of an image and of the kernel's timers: read, or refused by an error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_checkpoint.capture.settings import parse_timers
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image import strict_json
from sandlock_testkit.corpus import REFUSED, grown, seeds

CORPUS = Path(__file__).parent / "corpus"


def json(data: bytes) -> None:
    value = strict_json.parse(data, "file")
    assert strict_json.parse(strict_json.canonical(value), "file") == value


TimersError = ValueError  # which names the file
PARSERS: dict[str, Callable[[bytes], object]] = {"timers": parse_timers, "json": json}


def fault(name: str, content: bytes) -> str:
    """Return why an input is refused, "" where it is read."""
    try:
        PARSERS[name](content)
    except (ImageError, TimersError) as error:
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
