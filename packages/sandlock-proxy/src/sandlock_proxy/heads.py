"""Request heads, parsed strictly: what two servers could read in two ways is refused (NET-17, NET-19).

h11 is the parser. It is lenient where RFC 9112 lets a server be lenient; a proxy that others rely on must not be, so
the bytes are looked at before h11 sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11

from sandlock_proxy.errors import Refusal
from sandlock_proxy.limits import Limits

__all__ = ["Head", "check_bytes", "parse_head"]

# Field values may hold tabs and bytes above 0x7f (RFC 9110, 5.5); CR and LF are judged by their order.
_ALLOWED = bytes(range(0x20, 0x7F)) + b"\t\r\n" + bytes(range(0x80, 0x100))
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"authorization"})
# A server that hands headers to programs as variables reads `_` as `-` (RFC 3875, 4.1.18).
_SENSITIVE = _ONCE | {b"connection", b"upgrade", b"proxy-authorization"}
_REFUSED_METHODS = {b"CONNECT": "CONNECT would hide what follows", b"TRACE": "TRACE would show what the proxy adds"}
_UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@dataclass(frozen=True, slots=True)
class Head:
    """A request head that can be read in one way only.

    `headers` are (name as written, lower-case name, value). `length` is the size of the body, None when it is chunked.
    `parser` goes on with a chunked body.
    """

    method: str
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes, bytes], ...]
    length: int | None
    expects: bool
    parser: h11.Connection

    def first(self, name: bytes) -> bytes | None:
        """Return the value of the first header called `name` (lower case)."""
        return next((value for _, low, value in self.headers if low == name), None)

    @property
    def has_body(self) -> bool:
        """Tell whether anything follows the head."""
        return self.length != 0

    @property
    def keeps_alive(self) -> bool:
        """Tell whether the client wants to send another request on this connection."""
        if self.version == b"1.0":
            return False
        return not any(low == b"connection" and b"close" in value.lower() for _, low, value in self.headers)


def check_bytes(data: bytes | bytearray, limits: Limits) -> None:
    """Refuse what cannot become a head any more: called with what has arrived of it, and with the whole."""
    if len(data) > limits.head_bytes:
        raise Refusal(431, f"the head is longer than {limits.head_bytes} bytes", close=True)
    lines = data.count(b"\r\n")
    returns = data.count(b"\r") - data.endswith(b"\r")
    if data.count(b"\n") != lines or returns != lines:
        raise Refusal(400, "a line ends in CR or LF alone", close=True)
    if lines > limits.headers + 2:
        raise Refusal(431, f"there are more than {limits.headers} headers", close=True)
    if data.translate(None, _ALLOWED):
        raise Refusal(400, "the head has control characters", close=True)


def parse_head(data: bytes, limits: Limits) -> Head:
    """Return the head that `data`, up to and with its empty line, is; raises Refusal for what is not exactly one."""
    check_bytes(data, limits)
    if b"\r\n " in data or b"\r\n\t" in data:
        raise Refusal(400, "a header is folded over lines", close=True)
    _check_lines(data[:-4].split(b"\r\n"), limits)
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
    try:
        parser.receive_data(data)
        event = parser.next_event()
    except h11.RemoteProtocolError as fault:
        raise Refusal(_status(fault), f"this is no request: {fault}"[:200], close=True) from None
    if not isinstance(event, h11.Request):
        raise Refusal(400, "this is no request", close=True)
    return _judge(event, parser)


def _status(fault: h11.RemoteProtocolError) -> int:
    return fault.error_status_hint if fault.error_status_hint in (431, 501) else 400


def _check_lines(lines: list[bytes], limits: Limits) -> None:
    if len(lines[0]) > limits.target_bytes:
        raise Refusal(414, f"the request line is longer than {limits.target_bytes} bytes", close=True)
    if lines[0].count(b" ") != 2:
        raise Refusal(400, "the request line is not three words with one space between them", close=True)
    seen: set[bytes] = set()
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        low = name.lower()
        if not colon or not name or name[-1:] in b" \t":
            raise Refusal(400, "a header is not NAME: VALUE", close=True)
        if b"_" in low and low.replace(b"_", b"-") in _SENSITIVE:
            raise Refusal(400, "a header is spelt with `_` where `-` belongs", close=True)
        if low in _ONCE:
            if low in seen:
                raise Refusal(400, f"there are two {low.decode()} headers", close=True)
            seen.add(low)
        if low == b"content-length" and not value.strip(b" \t").isdigit():
            raise Refusal(400, "the content-length is no number", close=True)
    if b"content-length" in seen and b"transfer-encoding" in seen:
        raise Refusal(400, "there are both content-length and transfer-encoding", close=True)


def _judge(event: h11.Request, parser: h11.Connection) -> Head:
    headers = tuple((raw, raw.lower(), value) for raw, value in event.headers.raw_items())
    names = {low: value for _, low, value in headers}
    if event.http_version not in (b"1.0", b"1.1"):
        raise Refusal(505, "the version is neither HTTP/1.1 nor HTTP/1.0", close=True)
    if event.method in _REFUSED_METHODS:
        raise Refusal(403, _REFUSED_METHODS[event.method], close=True)
    if not _UPPER.issuperset(event.method):
        raise Refusal(400, "methods are upper case", close=True)
    wants = b",".join(value for _, low, value in headers if low == b"connection").lower()
    if b"upgrade" in names or b"http2-settings" in names or b"upgrade" in wants:
        raise Refusal(403, "an upgrade would hide what follows", close=True)
    if b"host" not in names:
        raise Refusal(400, "there is no host header", close=True)
    length: int | None = int(names.get(b"content-length", b"0"))
    if b"transfer-encoding" in names:
        if names[b"transfer-encoding"].lower() != b"chunked" or event.http_version == b"1.0":
            raise Refusal(400, "the transfer-encoding is not plainly chunked", close=True)
        length = None
    expect = names.get(b"expect", b"100-continue")
    if expect.lower() != b"100-continue":
        raise Refusal(417, "only 100-continue can be expected", close=True)
    method = event.method.decode("ascii")
    return Head(method, event.target, event.http_version, headers, length, b"expect" in names, parser)
