"""Layers and configurations of images, answers of workers, as files: read, or refused by their own errors."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.manifest import _json, config_of  # the text is read by nothing public
from sandlock_runtime.images.members import members
from sandlock_runtime.plain import PlainError, decode, encode
from sandlock_testkit.corpus import REFUSED, grown, seeds

CORPUS = Path(__file__).parent / "corpus"


def layer(content: bytes) -> None:
    source: Any = io.BytesIO(content)  # its `seek` names its argument otherwise
    assert len(list(members(source))) <= len(content) // 256 + 1


def answer(content: bytes) -> None:
    value = decode(content)
    assert encode(decode(encode(value))) == encode(value)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "layer": layer,
    "configuration": lambda content: config_of(_json(content, "a blob")),
    "answer": answer,
}


def fault(name: str, content: bytes) -> str:
    """Return why an input is refused, "" where it is read."""
    try:
        PARSERS[name](content)
    except (OciImageError, PlainError) as error:
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
