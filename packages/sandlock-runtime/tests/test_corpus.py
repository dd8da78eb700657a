"""Layers and configurations of images, answers of workers, as files: read, or refused by their own errors."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.manifest import _json, config_of  # the text is read by nothing public
from sandlock_runtime.images.members import members
from sandlock_runtime.plain import PlainError, decode, encode
from sandlock_testkit.corpus import corpus_tests


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


test_the_corpus_is_read_but_for_what_must_be_refused, test_what_grows_from_it_is_read_or_refused = corpus_tests(
    __file__, PARSERS, (OciImageError, PlainError)
)
