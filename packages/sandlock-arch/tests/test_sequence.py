"""Labels and branches."""

from __future__ import annotations

import pytest

from sandlock_arch.errors import EncodeError
from sandlock_arch.sequence import Branch, Item, Label, assemble


def signed_byte(distance: int) -> bytes:
    return distance.to_bytes(1, "little", signed=True)


def test_distance_counts_from_the_branch_itself() -> None:
    items: list[Item] = [b"ab", Branch("end", signed_byte), b"cd", Label("end"), b"e", Branch("end", signed_byte)]
    assert assemble(items) == b"ab\x03cde\xff"


def test_unknown_label_is_refused() -> None:
    with pytest.raises(EncodeError, match="no label 'x'"):
        assemble([Branch("x", signed_byte)])


def test_double_label_is_refused() -> None:
    with pytest.raises(EncodeError, match="twice"):
        assemble([Label("x"), Label("x")])
