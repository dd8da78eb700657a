"""Plain data: what goes through unchanged, and that reading it runs nothing and costs little."""

from __future__ import annotations

import random
import struct
import time
import types
from typing import Any

import pytest

from sandlock_runtime.plain import PlainError, decode, encode

VALUES: list[Any] = [
    None, True, False, 0, -1, 1 << 63, -(1 << 63), (1 << 63) - 1, -(1 << 200), 1.5, float("inf"), 2 + 3j, "", "ä\ud800",
    b"\x00\xff", bytearray(b"x"), [], (), set(), frozenset({1}), {}, {"a": [1, (2, {3: b"4"})], None: {5, "6"}},
    int, [dict, type(None)], list(range(3000)), {n: n for n in range(3000)},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:20])
def test_plain_data_comes_back_the_same(value: Any) -> None:
    copy = decode(encode(value))
    assert copy == value
    assert type(copy) is type(value)


def test_what_is_no_plain_data_is_named() -> None:
    class Text(str):
        __slots__ = ()

    for value in (object(), Text("x"), len, types, [Text("x")], {1: Text}, Text):
        with pytest.raises(PlainError, match="no plain data"):
            encode(value)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PlainError, match="deep"):
        encode(endless)


def sized(tag: bytes, count: int, content: bytes = b"") -> bytes:
    return tag + struct.pack("<Q", count) + content


@pytest.mark.parametrize(
    "data",
    [
        b"", b"N" * 2, b"?", b"i123", sized(b"s", 1 << 62), sized(b"l", 1 << 62), sized(b"D", 1 << 63, b"N" * 50),
        sized(b"b", 5, b"abcd"), sized(b"k", 4, b"eval"), sized(b"k", 8, b"__import"), sized(b"s", 1, b"\xff"),
        sized(b"l", 1) * 200 + b"N", sized(b"e", 1, sized(b"l", 0)), sized(b"D", 1, sized(b"D", 0) + b"N"),
        b"\x80\x04\x95", b"cos\nsystem\n(S'id'\ntR.", sized(b"I", 0, b"x"),
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_what_is_no_value_is_refused(data: bytes) -> None:
    with pytest.raises(PlainError):
        decode(data)


def test_any_damage_is_a_value_or_a_refusal() -> None:
    chance = random.Random(7)  # noqa: S311 - the same every time
    good = [encode(value) for value in VALUES if len(encode(value)) < 1000]
    for _ in range(5000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 4)):
            if data:
                data[chance.randrange(len(data))] = chance.choice(
                    [0, 1, 255, *b"NTFiIdcsbBltefDka", chance.randrange(256)]
                )
        try:
            decode(bytes(data[: chance.randint(0, len(data))]) if chance.random() < 0.3 else bytes(data))
        except PlainError:
            continue


def test_keys_that_were_chosen_to_collide_are_refused() -> None:
    """Numbers that differ by 2**61 - 1 have the same hash: a set of 50,000 of them takes minutes to build."""
    modulus = (1 << 61) - 1
    keys = b"".join(encode(number * modulus) for number in range(1, 50_001))
    pairs = b"".join(encode(number * modulus) + b"N" for number in range(1, 50_001))
    started = time.monotonic()
    for data in (sized(b"e", 50_000, keys), sized(b"f", 50_000, keys), sized(b"D", 50_000, pairs)):
        with pytest.raises(PlainError, match="same hash"):
            decode(data)
    assert time.monotonic() - started < 20
    assert len(decode(encode(dict.fromkeys(range(50000))))) == 50_000


def test_arrays_of_numbers_come_back() -> None:
    import numpy as np  # here: others see what is refused without it

    for array in (np.arange(12.0).reshape(3, 4), np.zeros((0, 2), "int8"), np.array(5), np.array([True])):
        copy = decode(encode(array))
        assert copy.dtype == array.dtype and copy.shape == array.shape
        assert (copy == array).all()
        copy[...] = 0
    for array in (np.array([object()]), np.array(["a"])):
        with pytest.raises(PlainError):
            encode(array)
    shape, content = encode((1,)), encode(b"x" * 8)
    for kind in ("|O", "O", "|V8", "i4,i4", "<U2", "object", "<i3", "(2,", "<i4" * 50):
        with pytest.raises(PlainError):
            decode(b"a" + encode(kind) + shape + content)
    with pytest.raises(PlainError):
        decode(b"a" + encode("<i8") + encode((1 << 62, 4)) + content)


def test_what_takes_much_more_than_was_sent_is_refused() -> None:
    """An empty set is 9 bytes here and 216 in memory."""
    count = 1_500_000
    with pytest.raises(PlainError, match="more containers than content"):
        decode(sized(b"l", count, sized(b"e", 0, b"") * count))
    assert len(decode(sized(b"l", 100_000, sized(b"e", 0, b"") * 100_000))) == 100_000


def test_reading_ends_at_a_deadline() -> None:
    data = sized(b"l", 100_000, b"N" * 100_000)
    assert len(decode(data, time.monotonic() + 3600)) == 100_000
    with pytest.raises(TimeoutError):
        decode(data, time.monotonic() - 1)
