"""The path of a request in the one form that is judged and forwarded (NET-18)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sandlock_proxy.errors import Refusal

__all__ = ["Target", "parse_target"]

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, 2.3
_LITERAL = _UNRESERVED | frozenset(b"!$&'()*+,;=:@/")  # what a path may hold as it is, RFC 3986, 3.3
# Decoded, they are read differently by different servers: separators, the end of a C string, a second decoding, and
# the sign that rules use. Rules refuse them too.
_NEVER_ENCODED = frozenset(b"/\\\0%*")
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?|/")


@dataclass(frozen=True, slots=True)
class Target:
    """A path, as decoded components for rules and as text to forward, and the query behind it, untouched.

    `plain` is `components` without `;parameters`: servers differ in whether these belong to the name, so a request
    has to pass either way.
    """

    components: tuple[str, ...]
    plain: tuple[str, ...]
    path: str
    query: str | None

    @property
    def text(self) -> str:
        """The target in origin form."""
        return self.path if self.query is None else f"{self.path}?{self.query}"


def parse_target(target: bytes) -> Target:
    """Return what `target` (origin form, as h11 lets it through) means; raises Refusal(400) where that is open.

    Escapes are decoded once. `.` and `..` that stand there plainly are resolved and empty components dropped, as
    servers do; written with escapes, or in a form that only some servers read so, they are refused.
    """
    raw, mark, query = target.partition(b"?")
    if not target.isascii():  # h11 lets none through; nobody is to depend on that
        raise Refusal(400, "the target is not ASCII")
    if b"#" in target:
        raise Refusal(400, "the target has a fragment")
    if not raw.startswith(b"/"):
        raise Refusal(400, "the target is no path")
    after = query.decode("ascii") if mark else None
    if _PLAIN.fullmatch(raw):  # nearly all of them: nothing to decode, nothing to resolve
        path = raw.decode("ascii")
        components = tuple(path[1:].split("/"))
        return Target(components, components, path, after)
    decoded: list[bytes] = []
    forward: list[bytes] = []
    segments = raw[1:].split(b"/")
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        name, written = _decode(segment)
        if segment in (b".", b"..") or (not segment and not last):
            if segment == b".." and decoded:
                del decoded[-1], forward[-1]
            if segment and last:
                decoded.append(b"")
                forward.append(b"")
            continue
        _check_name(name)
        decoded.append(name)
        forward.append(written)
    try:
        components = tuple(name.decode("utf-8") for name in decoded)
    except UnicodeDecodeError:  # overlong forms among them
        raise Refusal(400, "the path is not UTF-8") from None
    plain = tuple(name.partition(";")[0] for name in components)
    return Target(components, plain, "/" + b"/".join(forward).decode("ascii"), after)


def _decode(segment: bytes) -> tuple[bytes, bytes]:
    """Return `segment` decoded once, and in its normal form: escapes in upper case, none for what needs none."""
    name = bytearray()
    written = bytearray()
    index = 0
    while index < len(segment):
        byte = segment[index]
        if byte != 0x25:
            if byte == 0x5C:
                raise Refusal(400, "the path has a backslash")
            name.append(byte)
            written += bytes((byte,)) if byte in _LITERAL else b"%%%02X" % byte
            index += 1
            continue
        try:
            code = bytes.fromhex(segment[index + 1 : index + 3].decode("ascii"))[0]
        except (ValueError, IndexError):
            raise Refusal(400, "the path has an escape that is none") from None
        if code in _NEVER_ENCODED or code < 0x20 or code == 0x7F:
            raise Refusal(400, f"the path has %{code:02X}, which servers read differently")
        name.append(code)
        written += bytes((code,)) if code in _UNRESERVED else b"%%%02X" % code
        index += 3
    return bytes(name), bytes(written)


def _check_name(name: bytes) -> None:
    """Refuse what some servers take for `.`, `..` or nothing."""
    head = name.partition(b";")[0]
    if head in (b".", b"..") or (b";" in name and not head):
        raise Refusal(400, "the path has a component that some servers read as `..`")
