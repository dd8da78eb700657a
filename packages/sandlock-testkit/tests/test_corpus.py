"""Tests made from a corpus fail where a parser takes what it has to refuse, refuses what is sound, or just breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sandlock_testkit.corpus import corpus_tests


def sound(content: bytes) -> None:
    if not content.isascii():
        raise ValueError("not ASCII")


def takes_all(_: bytes) -> None:
    return None


def refuses_all(_: bytes) -> None:
    raise ValueError("no")


def breaks(content: bytes) -> None:
    sound(content)
    raise KeyError(content)


@pytest.fixture
def beside(tmp_path: Path) -> str:
    corpus = tmp_path / "corpus/text"
    corpus.mkdir(parents=True)
    (corpus / "plain").write_bytes(b"plain")
    (corpus / "refused-latin").write_bytes(b"\xe4")
    return str(tmp_path / "test_text.py")


def test_a_parser_that_reads_and_refuses_as_the_files_say_passes(beside: str) -> None:
    as_it_is, as_it_grows = corpus_tests(beside, {"text": sound}, (ValueError,))
    as_it_is("text")
    as_it_grows("text")


@pytest.mark.parametrize("parser", [takes_all, refuses_all])
def test_one_that_does_not_fails(beside: str, parser: Callable[[bytes], None]) -> None:
    as_it_is, _ = corpus_tests(beside, {"text": parser}, (ValueError,))
    with pytest.raises(AssertionError):
        as_it_is("text")


def test_one_that_breaks_fails_on_what_grows_too(beside: str) -> None:
    for test in corpus_tests(beside, {"text": breaks}, (ValueError,)):
        with pytest.raises(KeyError):
            test("text")


def test_a_corpus_without_a_file_fails(beside: str) -> None:
    Path(beside).parent.joinpath("corpus/empty").mkdir()
    as_it_is, _ = corpus_tests(beside, {"empty": takes_all}, ())
    with pytest.raises(ValueError, match="has no input"):
        as_it_is("empty")
