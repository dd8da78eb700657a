"""The request as it goes out: what h11 has let in, in our own framing."""

from __future__ import annotations

from dataclasses import dataclass

import h11

from sandlock_proxy.admission import Request
from sandlock_proxy.credentials import Attached
from sandlock_proxy.limits import Limits

__all__ = ["Outgoing", "hop_by_hop", "write_request"]

# About one connection, not about the message (RFC 9110, 7.6.1).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OWN = frozenset({b"host", b"content-length"})
# Some frameworks take the method or the path from these, behind the back of every rule (NET-19).
_OVERRIDES = frozenset(
    {
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
        b"x-original-uri",
        b"x-forwarded-uri",
    }
)
# What the parser of an answer has to know of its request is whether it was HEAD.
_GET = h11.Request(method="GET", target="/", headers=[("Host", "a")])
_HEAD = h11.Request(method="HEAD", target="/", headers=[("Host", "a")])


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The bytes of a head, and the parser that will read what is answered to it."""

    wire: bytes
    parser: h11.Connection


def hop_by_hop(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the names (lower case) of what ends at this hop: the known ones and those that Connection names."""
    named = [value for low, value in headers if low == b"connection"]
    if not named:
        return HOP_BY_HOP
    return HOP_BY_HOP | {one.strip().lower() for one in b",".join(named).split(b",")}


def write_request(
    request: Request, scheme: str, attached: Attached | None, limits: Limits, *, strip_overrides: bool
) -> Outgoing:
    """Return the head to send for `request`; nothing of how it was framed or spelt reaches the server."""
    head = request.head
    drop = hop_by_hop([(low, value) for _, low, value in head.headers]) | _OWN
    if strip_overrides:
        drop |= {low for _, low, _ in head.headers if low.replace(b"_", b"-") in _OVERRIDES}
    target = request.target.text
    added: list[tuple[bytes, bytes]] = []
    if attached is not None:
        # A compressed answer could not be searched for the secret.
        drop |= attached.drop | {b"accept-encoding"}
        added = [*attached.add, (b"Accept-Encoding", b"identity")]
        if attached.query is not None:
            target = f"{request.target.path}?{attached.query}"
    headers = [(b"Host", request.authority.header(scheme).encode("ascii"))]
    headers += [(raw, value) for raw, low, value in head.headers if low not in drop]
    headers += added
    if head.length is None:
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif head.length or head.first(b"content-length") is not None:
        headers.append((b"Content-Length", b"%d" % head.length))
    wire = b"\r\n".join(
        [f"{head.method} {target} HTTP/1.1".encode("ascii"), *(name + b": " + value for name, value in headers)]
    )
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_bytes)
    parser.send(_HEAD if head.method == "HEAD" else _GET)
    return Outgoing(wire + b"\r\n\r\n", parser)
