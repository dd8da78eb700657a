"""ChaCha20 (RFC 8439) as a stream of bytes: the same for the same key on every machine.

No library that this package has anyway offers it. All blocks of a batch are computed at once: the lanes of a large
integer, 64 bits for each 32-bit word, so that a carry stays in its own lane until it is cut off.
"""

from __future__ import annotations

import sys
from array import array

__all__ = ["KEY_SIZE", "Stream", "blocks"]

KEY_SIZE = 32  # bytes
_BLOCK = 64  # bytes
_WORDS = 16
_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k"
_ROUNDS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
_LANE = 64  # bits
_BATCH = 64  # blocks


def blocks(key: bytes, counter: int, nonce: bytes, count: int) -> bytes:
    """Return `count` blocks of 64 bytes of the key stream, from block `counter` on.

    Arguments:
        key: 32 bytes.
        counter: of the first block; that of the last one is below 2**32.
        nonce: 12 bytes.
        count: at least 1.

    """
    if len(key) != KEY_SIZE or len(nonce) != 12 or not 0 <= counter <= (1 << 32) - count:
        raise ValueError(
            f"a key of {len(key)} bytes, a nonce of {len(nonce)} and blocks {counter} to {counter + count}"
        )
    ones = ((1 << _LANE * count) - 1) // ((1 << _LANE) - 1)  # 1 in each lane
    mask = ones * 0xFFFFFFFF
    words = [*_CONSTANTS, *_little(key), 0, *_little(nonce)]
    start = [word * ones for word in words]
    start[12] = int.from_bytes(array("Q", range(counter, counter + count)).tobytes(), sys.byteorder)
    state = start.copy()
    for _ in range(10):
        for a, b, c, d in _ROUNDS:
            _quarter(state, mask, a, b, c, d)
    out = array("I", bytes(_BLOCK * count))
    for index, (one, other) in enumerate(zip(state, start, strict=True)):
        lanes = array("I", ((one + other) & mask).to_bytes(8 * count, "little"))
        if sys.byteorder == "big":
            lanes.byteswap()
        out[index::_WORDS] = lanes[::2]
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()


def _quarter(x: list[int], mask: int, a: int, b: int, c: int, d: int) -> None:
    one, two, three, four = x[a], x[b], x[c], x[d]
    for left, right in ((16, 12), (8, 7)):
        one = (one + two) & mask
        four ^= one
        four = (four << left & mask) | (four >> 32 - left & mask)
        three = (three + four) & mask
        two ^= three
        two = (two << right & mask) | (two >> 32 - right & mask)
    x[a], x[b], x[c], x[d] = one, two, three, four


def _little(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


class Stream:
    """Key stream number `number` of a key, taken piece by piece; 256 GiB, then the next number's.

    Arguments:
        key: 32 bytes.
        number: 0..2**95; each has bytes of its own.

    """

    def __init__(self, key: bytes, number: int = 0) -> None:
        self._key = key
        self._nonce = number
        self._counter = 0
        self._ready = b""

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        parts = [self._ready]
        have = len(self._ready)
        while have < size:
            count = min(max(-(-(size - have) // _BLOCK), 1), _BATCH, (1 << 32) - self._counter)
            parts.append(blocks(self._key, self._counter, self._nonce.to_bytes(12, "little"), count))
            have += _BLOCK * count
            self._counter += count
            if self._counter == 1 << 32:
                self._counter, self._nonce = 0, self._nonce + (1 << 64)
        data = b"".join(parts)
        self._ready = data[size:]
        return data[:size]
