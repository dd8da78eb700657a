"""Heads and targets of requests that a program may write: one meaning, or a refusal with a status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_proxy import Limits
from sandlock_proxy.errors import Refusal
from sandlock_proxy.heads import parse_head
from sandlock_proxy.target import parse_target
from sandlock_testkit.corpus import REFUSED, grown, seeds

CORPUS = Path(__file__).parent / "corpus"


def head(data: bytes) -> None:
    # As the session hands it over: up to and with the first empty line.
    parse_head(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", Limits())


PARSERS: dict[str, Callable[[bytes], object]] = {"head": head, "target": parse_target}


def fault(name: str, content: bytes) -> str:
    """Return why an input is refused, "" where it is read."""
    try:
        PARSERS[name](content)
    except Refusal as refusal:
        return f"{refusal.status}"
    return ""


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_read_but_for_what_must_be_refused(name: str) -> None:
    for file, content in seeds(CORPUS / name).items():
        assert bool(fault(name, content)) is file.startswith(REFUSED), file


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_what_grows_from_it_is_read_or_refused(name: str, data: st.DataObject) -> None:
    fault(name, data.draw(grown(CORPUS / name)))
