"""Dataclasses to JSON and back, driven by their annotations; what comes back is checked to the last field.

An object has exactly the fields of its class. Where a field may be one of several classes, the object's "is" names
which. Integers are within 64 bits, and negative only where the table says so. `bytes` are text (os.fsdecode, so any
byte comes back) or, where the table says so, hex. A tuple of `Run` is one flat list: offset, length, offset, length.
"""

from __future__ import annotations

import enum
import functools
import os
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TypeVar

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.strict_json import Json
from sandlock_checkpoint.memory import Run

__all__ = ["decode", "encode"]

T = TypeVar("T")
Decoder = Callable[[Json], object]

_TAG = "is"
_DECODERS: dict[type, dict[str, Callable[[Json], object]]] = {}  # made once for each class
_LONGEST_TEXT = 1 << 20

# Fields that are bytes and not text.
_HEX = frozenset({
    "Layout.auxv", "Pipe.data", "SocketPair.queued", "ThreadState.pending", "ProcessInfo.pending",
    "UnconnectedSocket.address",
})  # fmt: skip
# Fields of integers below zero.
_NEGATIVE = frozenset({
    "FileLock.end", "FileLock.process", "IntervalTimer.value_us", "Inherited.shift", "Inherited.process",
    "Mapping.memory", "OpenFile.owner", "PosixTimer.clock", "PosixTimer.value", "PosixTimer.tid",
    "ProcessInfo.next_timer_id", "ProcessInfo.parent", "ProcessInfo.exit_signal", "Rseq.signature",
    "ProcessInfo.wait_status", "Scheduling.nice", "SocketPair.options", "ThreadState.syscall", "TimerFile.clock",
    "UnconnectedSocket.backlog", "UnconnectedSocket.options",
})  # fmt: skip


class _FaultError(Exception):
    """What is wrong, and where: the path grows from the inside out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""

    def within(self, key: str) -> _FaultError:
        """Put `key`, a name or [number], in front of the path."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        self.path = key + joint + self.path
        return self


def encode(value: object, omit: frozenset[str] = frozenset(), where: str = "") -> Json:
    """Return `value` as JSON.

    Arguments:
        value: a dataclass, or what its fields hold.
        omit: names of fields of `value` to leave out.
        where: "Class.field" that holds it.

    Raises:
        ImageError: an integer that `decode` would refuse.

    """
    if isinstance(value, int) and not (-(1 << 63) if where in _NEGATIVE else 0) <= value < 1 << 64:
        raise ImageError("", where, f"{value} does not fit the format")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return value.hex() if where in _HEX else os.fsdecode(value)
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, tuple):
        if value and isinstance(value[0], Run):
            return [number for run in value for number in run]
        return [encode(item, where=where) for item in value]
    name = type(value).__name__
    found: dict[str, Json] = {_TAG: name} if where in _UNIONS else {}
    for field in fields(value):  # type: ignore[arg-type]  # everything else has been told apart above
        if field.name not in omit:
            found[field.name] = encode(getattr(value, field.name), where=f"{name}.{field.name}")
    return found


def decode(cls: type[T], value: Json, file: str, field: str = "", **given: object) -> T:
    """Return the `cls` that `value` is.

    Arguments:
        cls: a dataclass.
        value: what `strict_json.parse` gave.
        file: name of the file, for the exception.
        field: where in it `value` stands, likewise.
        given: values of fields that `value` must not have.

    Raises:
        ImageError: a field is missing, unknown, of another type or out of range.

    """
    try:
        return _build(cls, value, given)
    except _FaultError as fault:
        path = fault.within(field).path if field else fault.path
        raise ImageError(file, path, fault.reason) from None


def _build(cls: type[T], value: Json, given: dict[str, object]) -> T:
    if not isinstance(value, dict):
        raise _FaultError("is not an object")
    decoders = _decoders_of(cls)
    found = dict(given)
    for key in value:
        if key not in decoders or key in given:
            raise _FaultError("is unknown").within(key)
    for key, decoder in decoders.items():
        if key in given:
            continue
        if key not in value:
            raise _FaultError("is missing").within(key)
        try:
            found[key] = decoder(value[key])
        except _FaultError as fault:
            raise fault.within(key) from None
    return cls(**found)


def _decoders_of(cls: type) -> dict[str, Decoder]:
    found = _DECODERS.get(cls)
    if found is None:
        found = _DECODERS[cls] = _make_decoders(cls)
    return found


def _make_decoders(cls: type) -> dict[str, Decoder]:
    hints = typing.get_type_hints(cls)
    return {field.name: _decoder(hints[field.name], f"{cls.__name__}.{field.name}") for field in fields(cls)}


def _decoder(kind: object, where: str) -> Decoder:
    """Return what decodes an annotation, for the field `where`."""
    if kind is bool:
        return _bool
    if kind is int:
        return _signed if where in _NEGATIVE else _unsigned
    if kind is str:
        return _text
    if kind is bytes:
        return _hex if where in _HEX else _path
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if arguments == (Run, ...):
            return _runs
        if arguments[-1] is Ellipsis:
            return functools.partial(_many, _decoder(arguments[0], where))
        return functools.partial(_fixed, [_decoder(one, where) for one in arguments])
    if origin is types.UnionType or origin is typing.Union:
        if len(arguments) == 2 and type(None) in arguments:
            inner = next(one for one in arguments if one is not type(None))
            return functools.partial(_optional, _decoder(inner, where))
        return functools.partial(_tagged, {one.__name__: one for one in arguments})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return functools.partial(_choice, kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return lambda value: _build(kind, value, {})
    raise TypeError(f"{where}: images have no {kind}")


def _bool(value: Json) -> object:
    if not isinstance(value, bool):
        raise _FaultError("is not true or false")
    return value


def _unsigned(value: Json) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _FaultError("is not an integer")
    if not 0 <= value < 1 << 64:
        raise _FaultError(f"{value} is not within 0..2^64-1")
    return value


def _signed(value: Json) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _FaultError("is not an integer")
    if not -(1 << 63) <= value < 1 << 64:
        raise _FaultError(f"{value} has more than 64 bits")
    return value


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise _FaultError("is not text")
    if len(value) > _LONGEST_TEXT:
        raise _FaultError(f"has {len(value)} characters, more than {_LONGEST_TEXT}")
    return value


def _path(value: Json) -> object:
    try:
        return _text(value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _FaultError("has a character that stands for no byte") from None


def _hex(value: Json) -> object:
    # No limit of its own: the file's is one.
    if not isinstance(value, str):
        raise _FaultError("is not text")
    try:
        data = bytes.fromhex(value)
    except ValueError:
        raise _FaultError("is not hex") from None
    if data.hex() != value:  # fromhex takes spaces and capitals
        raise _FaultError("is not hex in small letters")
    return data


def _runs(value: Json) -> object:
    if not isinstance(value, list) or len(value) % 2:
        raise _FaultError("is not a list of pairs of integers")
    for index, number in enumerate(value):
        try:
            _unsigned(number)
        except _FaultError as fault:
            raise fault.within(f"[{index}]") from None
    numbers = typing.cast(list[int], value)
    return tuple(map(Run, numbers[::2], numbers[1::2]))


def _many(item: Decoder, value: Json) -> object:
    if not isinstance(value, list):
        raise _FaultError("is not a list")
    found = []
    try:
        for one in value:
            found.append(item(one))  # noqa: PERF401 - the index of a fault is how many came before it
    except _FaultError as fault:
        raise fault.within(f"[{len(found)}]") from None
    return tuple(found)


def _fixed(items: list[Decoder], value: Json) -> object:
    if not isinstance(value, list) or len(value) != len(items):
        raise _FaultError(f"is not a list of {len(items)}")
    return tuple(item(one) for item, one in zip(items, value, strict=True))


def _optional(inner: Decoder, value: Json) -> object:
    return None if value is None else inner(value)


def _tagged(classes: dict[str, type], value: Json) -> object:
    if not isinstance(value, dict):
        raise _FaultError("is not an object")
    rest = dict(value)
    tag = rest.pop(_TAG, None)
    if not isinstance(tag, str) or tag not in classes:
        raise _FaultError(f"is none of {', '.join(classes)}").within(_TAG)
    return _build(classes[tag], rest, {})


def _choice(kind: type[enum.Enum], value: Json) -> object:
    for member in kind:
        if member.value == value and isinstance(value, str):
            return member
    raise _FaultError(f"is none of {', '.join(str(member.value) for member in kind)}")


# Where a tag is written: fields that are one of several classes.
_UNIONS = frozenset({"OpenFile.target"})
