"""The text of an image and of the kernel's timers: read, or refused by an error that names the file."""

from __future__ import annotations

from collections.abc import Callable

from sandlock_checkpoint.capture.settings import parse_timers
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image import strict_json
from sandlock_testkit.corpus import corpus_tests


def json(data: bytes) -> None:
    value = strict_json.parse(data, "file")
    assert strict_json.parse(strict_json.canonical(value), "file") == value


PARSERS: dict[str, Callable[[bytes], object]] = {"timers": parse_timers, "json": json}


test_the_corpus_is_read_but_for_what_must_be_refused, test_what_grows_from_it_is_read_or_refused = corpus_tests(
    __file__,
    PARSERS,
    (ImageError, ValueError),  # the latter names the file of timers
)
