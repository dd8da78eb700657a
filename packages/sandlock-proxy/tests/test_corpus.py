"""Heads and targets of requests that a program may write: one meaning, or a refusal with a status."""

from __future__ import annotations

from collections.abc import Callable

from sandlock_proxy import Limits
from sandlock_proxy.errors import Refusal
from sandlock_proxy.heads import parse_head
from sandlock_proxy.target import parse_target
from sandlock_testkit.corpus import corpus_tests


def head(data: bytes) -> None:
    # As the session hands it over: up to and with the first empty line.
    parse_head(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", Limits())


PARSERS: dict[str, Callable[[bytes], object]] = {"head": head, "target": parse_target}


test_the_corpus_is_read_but_for_what_must_be_refused, test_what_grows_from_it_is_read_or_refused = corpus_tests(
    __file__, PARSERS, (Refusal,)
)
