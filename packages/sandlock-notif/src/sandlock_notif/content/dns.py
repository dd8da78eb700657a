"""DNS messages as far as a resolver for addresses needs them: one question in, addresses or an error out. Pure."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct, pack, unpack_from
from typing import Final

__all__ = ["AAAA", "FORMAT_ERROR", "NO_ERROR", "NO_NAME", "SERVER_FAILURE", "A", "Question", "parse_question", "reply"]

# RFC 1035, 4.1.1; RFC 3596
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_NAME = 0, 1, 2, 3
A: Final = 1
AAAA: Final = 28

_HEADER = Struct("!HHHHHH")
_RESPONSE, _OPCODE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
_IN: Final = 1
_NAME_MAX: Final = 253
_ANSWERS_MAX: Final = 32
_POINTER_TO_QUESTION: Final = 0xC00C


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        id: to be repeated in the reply.
        name: lower case, without a final dot.
        kind: A, AAAA or another type.
        raw: the question as it came, to be repeated.
        recursion: whether recursion was desired.

    """

    id: int
    name: str
    kind: int
    raw: bytes
    recursion: bool


def parse_question(message: bytes) -> Question:
    """Return the one question of a query; raises ValueError for anything else.

    A label may hold letters, digits, hyphens and underscores: nothing that a rule could be about has others.
    """
    if len(message) < _HEADER.size:
        raise ValueError("a message has a header of 12 bytes")
    number, flags, questions, _, _, _ = _HEADER.unpack_from(message)
    if flags & (_RESPONSE | _OPCODE) or questions != 1:
        raise ValueError("not a query with one question")
    labels: list[str] = []
    at = _HEADER.size
    while True:
        if at >= len(message):
            raise ValueError("the name has no end")
        length = message[at]
        at += 1
        if not length:
            break
        label = message[at : at + length]
        at += length
        if length > 63 or len(label) < length or not label.replace(b"-", b"a").replace(b"_", b"a").isalnum():
            raise ValueError(f"{label!r} is no label")
        labels.append(label.decode("ascii").lower())
    name = ".".join(labels)
    if at + 4 > len(message) or len(name) > _NAME_MAX:
        raise ValueError("the question has no type, or too long a name")
    kind, network = unpack_from("!HH", message, at)
    if network != _IN:
        raise ValueError(f"class {network} is not the Internet")
    return Question(number, name, kind, message[_HEADER.size : at + 4], bool(flags & _RECURSION_DESIRED))


def reply(question: Question, code: int, addresses: Sequence[str] = (), ttl_s: int = 0) -> bytes:
    """Return the answer: those of `addresses` that are of the kind that was asked for, or an error `code`."""
    family = {A: socket.AF_INET, AAAA: socket.AF_INET6}.get(question.kind)
    packed = [
        socket.inet_pton(family, one)
        for one in addresses
        if family is not None and (":" in one) == (family == socket.AF_INET6)
    ][:_ANSWERS_MAX]
    flags = _RESPONSE | _RECURSION_AVAILABLE | (_RECURSION_DESIRED if question.recursion else 0) | code
    head = _HEADER.pack(question.id, flags, 1, len(packed), 0, 0)
    records = [
        pack("!HHHIH", _POINTER_TO_QUESTION, question.kind, _IN, ttl_s, len(data)) + data for data in packed
    ]  # fmt: skip
    return head + question.raw + b"".join(records)
