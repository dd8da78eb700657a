"""Plain values as bytes, and back, for answers from somebody who is not trusted.

Unpickling runs what the sender says. Reading this format runs nothing: it knows None, booleans, numbers, text, bytes,
lists, tuples, sets, dictionaries, the builtin types themselves by their names, and arrays of numbers where this process
has NumPy already. What is read costs no more memory than a small multiple of what was sent, and no more time either.
"""

from __future__ import annotations

import struct
import sys
import time
from itertools import repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["PlainError", "decode", "encode"]

_DEPTH = 100  # of containers in each other
_COLLISIONS = 64  # keys with one hash: the time to build a set of them grows with their square
_FEW = 64  # below this many keys nobody has to look
_BATCH = 1 << 14  # values between two looks at the clock
_ROOM, _RATIO = (
    256 << 20,
    4,
)  # bytes for containers, beside so many times what was sent: an empty set takes 24 times that
_TYPES = {
    kind.__name__: kind
    for kind in (
        type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, object, type,
    )
}  # fmt: skip
_NAMES: dict[type, bytes] = {kind: name.encode() for name, kind in _TYPES.items()}
_CONTAINER = sys.getsizeof(set())  # the largest of them
_SIZE, _INT, _FLOAT = struct.Struct("<Q"), struct.Struct("<q"), struct.Struct("<d")
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_CONTAINERS: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"e", frozenset: b"f"}
_NUMBERS = "?bBhHiIlLqQefdgFDG"  # NumPy's kinds whose items are no references


class PlainError(ValueError):
    """A value that is no plain data, or bytes that are none."""


def encode(value: object) -> bytes:
    """Return `value` as bytes; PlainError names the type that is no plain data."""
    parts: list[bytes] = []
    _encode(value, parts.append, 0)
    return b"".join(parts)


def _encode(value: Any, put: Callable[[bytes], None], depth: int) -> None:
    kind: type = type(value)  # a subclass may carry what cannot be sent
    if depth > _DEPTH:
        raise PlainError(f"the value is nested more than {_DEPTH} deep, or contains itself")
    if value is None:
        put(b"N")
    elif kind is bool:
        put(b"T" if value else b"F")
    elif kind is int and _INT_MIN <= value <= _INT_MAX:
        put(b"i" + _INT.pack(value))
    elif kind is int:
        _put_sized(b"I", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True), put)
    elif kind is float:
        put(b"d" + _FLOAT.pack(value))
    elif kind is complex:
        put(b"c" + _FLOAT.pack(value.real) + _FLOAT.pack(value.imag))
    elif kind is str:
        _put_sized(b"s", value.encode("utf-8", "surrogatepass"), put)
    elif kind is bytes or kind is bytearray:
        _put_sized(b"b" if kind is bytes else b"B", value, put)
    elif kind in _CONTAINERS:
        _put_all(_CONTAINERS[kind], len(value), value, put, depth)
    elif kind is dict:
        _put_all(b"D", len(value), (part for item in value.items() for part in item), put, depth)
    elif kind is type and value in _NAMES:
        _put_sized(b"k", _NAMES[value], put)
    elif kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.char in _NUMBERS:
        put(b"a")
        _encode(value.dtype.str, put, depth + 1)
        _encode(tuple(value.shape), put, depth + 1)
        _put_sized(b"b", value.tobytes(), put)
    else:
        raise PlainError(f"{kind.__module__}.{kind.__qualname__} is no plain data")


def _put_sized(tag: bytes, data: bytes, put: Callable[[bytes], None]) -> None:
    put(tag + _SIZE.pack(len(data)))
    put(bytes(data))


def _put_all(tag: bytes, count: int, values: Iterable[object], put: Callable[[bytes], None], depth: int) -> None:
    put(tag + _SIZE.pack(count))
    for value in values:
        _encode(value, put, depth + 1)


def decode(data: bytes | memoryview, deadline: float | None = None) -> Any:
    """Return the value that `data` stands for.

    Arguments:
        data: what was sent.
        deadline: of `time.monotonic`; TimeoutError when reading takes longer.

    Raises:
        PlainError: it stands for none, whatever is in it.

    """
    reader = _Reader(memoryview(data), deadline)
    try:
        value = reader.value(0)
    except PlainError:
        raise
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        # Text that is no UTF-8, a key that cannot be hashed, a shape that does not fit: the sender's doing.
        raise PlainError(f"no plain data: {error}") from None
    if reader.at != len(reader.data):
        raise PlainError("something follows the value")
    return value


class _Reader:
    """Where a reading stands."""

    __slots__ = ("at", "data", "deadline", "room")

    def __init__(self, data: memoryview, deadline: float | None) -> None:
        self.data = data
        self.at = 0
        self.deadline = deadline
        self.room = _ROOM + _RATIO * len(data)

    def take(self, size: int) -> memoryview:
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise PlainError("the value is cut short")
        return self.data[start : self.at]

    def sized(self) -> memoryview:
        return self.take(_SIZE.unpack(self.take(8))[0])

    def values(self, depth: int, each: int = 1) -> list[Any]:
        count = _SIZE.unpack(self.take(8))[0] * each
        if count > len(self.data) - self.at:  # each takes a byte at least
            raise PlainError("the value is cut short")
        self.room -= _CONTAINER
        if self.room < 0:
            raise PlainError("more containers than content")
        found: list[Any] = []
        while count:
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise TimeoutError("reading the value takes too long")
            batch = min(count, _BATCH)
            found += [self.value(depth) for _ in repeat(None, batch)]
            count -= batch
        return found

    def value(self, depth: int) -> Any:
        if depth > _DEPTH:
            raise PlainError(f"nested more than {_DEPTH} deep")
        tag = bytes(self.take(1))
        read = _READERS.get(tag)
        if read is None:
            raise PlainError(f"unknown tag {tag!r}")
        return read(self, depth + 1)

    def dictionary(self, depth: int) -> dict[Any, Any]:
        parts = self.values(depth, 2)
        return dict(zip(_keys(parts[::2]), parts[1::2], strict=True))

    def array(self, depth: int) -> Any:
        kind, shape, content = self.value(depth), self.value(depth), self.value(depth)
        numpy = sys.modules.get("numpy")
        if numpy is None:
            raise PlainError("an array, and this process has not imported numpy")
        if type(kind) is not str or type(shape) is not tuple or type(content) is not bytes:
            raise PlainError("no array")
        if kind[:1] not in "<>|" or kind[1:2] not in "biufc" or not kind[2:].isdigit() or len(kind) > 5:
            raise PlainError(f"an array of {kind!r}")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise PlainError("no array")
        dtype = numpy.dtype(kind)
        if dtype.char not in _NUMBERS or dtype.str != kind:
            raise PlainError(f"an array of {kind!r}")
        return numpy.frombuffer(content, dtype).reshape(shape).copy()


def _keys(values: list[Any]) -> list[Any]:
    """Return `values`, which become keys; PlainError when they were chosen to collide."""
    if len(values) > _FEW:
        # Numbers hash to themselves, so a sender can have them collide; text does not, its hash is secret.
        counts: dict[str, int] = {}
        for value in values:
            if type(value) not in (str, bytes):
                mark = str(hash(value))
                counts[mark] = counts.get(mark, 0) + 1
                if counts[mark] > _COLLISIONS:
                    raise PlainError("keys with the same hash")
    return values


def _complex(reader: _Reader) -> complex:
    return complex(_FLOAT.unpack(reader.take(8))[0], _FLOAT.unpack(reader.take(8))[0])


def _type(reader: _Reader) -> type:
    name = str(reader.sized(), "ascii")
    if name not in _TYPES:
        raise PlainError(f"unknown type {name!r}")
    return _TYPES[name]


_READERS: dict[bytes, Callable[[_Reader, int], Any]] = {
    b"N": lambda _, __: None,
    b"T": lambda _, __: True,
    b"F": lambda _, __: False,
    b"i": lambda reader, _: _INT.unpack(reader.take(8))[0],
    b"I": lambda reader, _: int.from_bytes(reader.sized(), "little", signed=True),
    b"d": lambda reader, _: _FLOAT.unpack(reader.take(8))[0],
    b"c": lambda reader, _: _complex(reader),
    b"s": lambda reader, _: str(reader.sized(), "utf-8", "surrogatepass"),
    b"b": lambda reader, _: bytes(reader.sized()),
    b"B": lambda reader, _: bytearray(reader.sized()),
    b"l": lambda reader, depth: reader.values(depth),
    b"t": lambda reader, depth: tuple(reader.values(depth)),
    b"e": lambda reader, depth: set(_keys(reader.values(depth))),
    b"f": lambda reader, depth: frozenset(_keys(reader.values(depth))),
    b"D": lambda reader, depth: reader.dictionary(depth),
    b"k": lambda reader, _: _type(reader),
    b"a": lambda reader, depth: reader.array(depth),
}
