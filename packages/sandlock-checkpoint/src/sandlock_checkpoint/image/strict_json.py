"""JSON as the image has it: bounded, without floats, duplicate keys or deep nesting; the same value, the same bytes."""

from __future__ import annotations

import json
from typing import NoReturn, TypeAlias, Union

from sandlock_checkpoint.errors import ImageError

__all__ = ["Json", "canonical", "parse"]

Json: TypeAlias = Union[bool, int, str, list["Json"], dict[str, "Json"], None]  # noqa: UP007 - it names itself

# Each container costs some 60 bytes of memory or more, whatever it costs in the file ("[" is one byte).
_MOST_CONTAINERS = 1 << 21
_DEEPEST = 32


def canonical(value: Json) -> bytes:
    """Return `value` as JSON in ASCII: keys in order, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse(data: bytes, file: str) -> Json:
    """Return the value in `data`.

    Arguments:
        data: the whole file.
        file: its name, for the exception.

    Raises:
        ImageError: it is not JSON in ASCII, or uses what an image does not.

    """
    # Counting brackets bounds memory before anything is built. Brackets in strings count too: no honest image has
    # that many.
    if data.count(b"[") + data.count(b"{") > _MOST_CONTAINERS:
        raise ImageError(file, "", f"has more than {_MOST_CONTAINERS} lists and objects")
    try:
        text = data.decode("ascii")
        value: Json = json.loads(text, object_pairs_hook=_object, parse_float=_number, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        # ValueError: bad JSON, bytes that are not ASCII, integers of thousands of digits, and what our hooks refuse.
        reason = "is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ImageError(file, "", f"is not JSON as images have it: {reason}") from None
    if _depth(value) > _DEEPEST:
        raise ImageError(file, "", f"is nested deeper than {_DEEPEST}")
    return value


def _object(pairs: list[tuple[str, Json]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not an integer")


def _depth(value: Json) -> int:
    """Return how deep `value` is nested; level by level, since recursion is what it is there to bound."""
    depth = 0
    level: list[Json] = [value]
    while level and depth <= _DEEPEST:
        depth += 1
        inner: list[Json] = []
        for one in level:
            children = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            inner += [child for child in children if isinstance(child, dict | list)]
        level = inner
    return depth
