"""Fuzzing a parser from a corpus: files that it reads, and what grows from them by damage.

A folder `tests/corpus/NAME` holds one input in each file. Whatever made a parser fail is put there too, as a file whose
name begins with `refused` where it is no sound input; every file is tried in every run, and the session `fuzz` lets
20,000 new ones grow from them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["REFUSED", "corpus_tests", "grown", "seeds"]

REFUSED = "refused"
"""What the name of a file begins with that its parser has to refuse."""
_PIECES = (
    b"", b"\0", b"\n", b" ", b"\t", b"\r\n", b"\xff", b"\x80", b"-1", b"0", b"00", b"1e9", b"_", b'"', b"'", b"\\",
    b"%00", b"..", b"/", b"//", b":", b"[", b"]", b"*", b"=", b",", b"#", b"18446744073709551616", b"\xff\xff\xff\xff",
    b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, "\u0661\u212a\u202e".encode(), b"x" * 300,
)  # fmt: skip


@cache
def seeds(folder: Path) -> dict[str, bytes]:
    """Return the inputs of one parser by the names of their files; ValueError where there is none."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    if not found:
        raise ValueError(f"{folder} has no input")
    return found


@cache
def grown(folder: Path) -> st.SearchStrategy[bytes]:
    """Return a strategy: one of the inputs in `folder`, with a few places changed, left out, doubled or exchanged."""
    contents = list(seeds(folder).values())
    places = st.integers(0, max(len(content) for content in contents))

    @st.composite
    def inputs(draw: Callable[..., bytes | int]) -> bytes:
        content = bytearray(draw(st.sampled_from(contents)))
        for _ in range(int(draw(st.integers(0, 5)))):
            begin = int(draw(places)) % (len(content) + 1)
            end = min(begin + int(draw(st.integers(0, 40))), len(content))
            kind = draw(st.integers(0, 4))
            if kind == 0:
                content[begin:end] = bytes(draw(st.sampled_from(_PIECES)))
            elif kind == 1:
                content[begin:end] = bytes(draw(st.binary(max_size=16)))
            elif kind == 2:
                content[begin:begin] = content[begin:end]
            elif kind == 3:
                del content[begin:end]
            else:
                other = bytes(draw(st.sampled_from(contents)))
                start = int(draw(places)) % (len(other) + 1)
                content[begin:] = other[start:]
        return bytes(content)

    return inputs()


def corpus_tests(
    beside: str, parsers: Mapping[str, Callable[[bytes], object]], refusals: tuple[type[Exception], ...]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return two tests of some parsers: of the corpus as it is, and of what grows from it.

    Arguments:
        beside: the file of the tests; `corpus/NAME` next to it is the corpus of a parser.
        parsers: by name; what they return is not looked at, so one may assert what holds for it.
        refusals: how they refuse an input. Any other exception is a fault.

    """
    corpus = Path(beside).parent / "corpus"

    def is_refused(name: str, content: bytes) -> bool:
        try:
            parsers[name](content)
        except refusals:
            return True
        return False

    @pytest.mark.parametrize("name", parsers)
    def as_it_is(name: str) -> None:
        for file, content in seeds(corpus / name).items():
            assert is_refused(name, content) is file.startswith(REFUSED), file

    @pytest.mark.parametrize("name", parsers)
    @given(data=st.data())
    def as_it_grows(name: str, data: Any) -> None:
        is_refused(name, data.draw(grown(corpus / name)))

    return as_it_is, as_it_grows
