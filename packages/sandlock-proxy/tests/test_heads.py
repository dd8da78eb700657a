"""NET-17 and NET-19: heads that two servers could read in two ways are refused."""

from __future__ import annotations

import h11
import pytest

from sandlock_proxy.authority import Authority, parse_authority, split_absolute
from sandlock_proxy.errors import Refusal
from sandlock_proxy.heads import check_bytes, parse_head
from sandlock_proxy.limits import Limits

LIMITS = Limits()
GOOD = b"POST /x HTTP/1.1\r\nHost: a.org\r\nContent-Length: 5\r\n\r\n"


def lines(*more: bytes, first: bytes = b"POST /x HTTP/1.1", host: bytes = b"Host: a.org") -> bytes:
    return b"\r\n".join([first, *([host] if host else []), *more]) + b"\r\n\r\n"


def test_an_ordinary_head_is_understood() -> None:
    head = parse_head(GOOD, LIMITS)
    assert (head.method, head.target, head.length, head.has_body, head.keeps_alive) == ("POST", b"/x", 5, True, True)
    chunked = parse_head(lines(b"Transfer-Encoding: chunked", b"Expect: 100-continue"), LIMITS)
    assert (chunked.length, chunked.has_body, chunked.expects) == (None, True, True)
    assert not parse_head(lines(b"Connection: close"), LIMITS).keeps_alive
    assert not parse_head(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", LIMITS).keeps_alive


@pytest.mark.parametrize(
    ("attack", "status", "h11_takes_it"),
    [
        pytest.param(lines(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400, True, id="CL and TE"),
        pytest.param(lines(b"Content-Length: 5", b"Content-Length: 5"), 400, True, id="CL twice, the same"),
        pytest.param(lines(b"Content-Length: 5", b"Content-Length: 6"), 400, False, id="CL twice"),
        pytest.param(lines(b"Content-Length: 5, 5"), 400, True, id="CL list"),
        pytest.param(lines(b"Content-Length: +5"), 400, False, id="CL with sign"),
        pytest.param(lines(b"Content-Length: 0x5"), 400, False, id="CL in hex"),
        pytest.param(lines(b"Content-Length:"), 400, False, id="CL empty"),
        pytest.param(lines(b"Content_Length: 5"), 400, True, id="CL with an underscore"),
        pytest.param(lines(b"Transfer_Encoding: chunked"), 400, True, id="TE with an underscore"),
        pytest.param(lines(b"Transfer-Encoding: xchunked"), 501, False, id="TE unknown"),
        pytest.param(lines(b"Transfer-Encoding: gzip, chunked"), 501, False, id="TE list"),
        pytest.param(lines(b"Transfer-Encoding: chunked, identity"), 501, False, id="TE identity behind"),
        pytest.param(lines(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"), 400, False, id="TE twice"),
        pytest.param(lines(b"Transfer-Encoding : chunked"), 400, False, id="space before the colon"),
        pytest.param(lines(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"), 400, True, id="TE in 1.0"),
        pytest.param(lines(b"X: a\r\n Content-Length: 5"), 400, True, id="folded line"),
        pytest.param(lines(b"X: a\r\n\tb"), 400, True, id="folded by a tab"),
        pytest.param(lines(b"X: a\nContent-Length: 5"), 400, True, id="bare LF"),
        pytest.param(lines(b"X: a\rContent-Length: 5"), 400, False, id="bare CR"),
        pytest.param(lines(b"X: a\r\r\nY: b"), 400, False, id="CR CR LF"),
        pytest.param(lines(b"X: a\0b"), 400, False, id="NUL"),
        pytest.param(lines(b"X: a\x0bb"), 400, False, id="control character"),
        pytest.param(b"\r\n" + GOOD, 400, False, id="empty line first"),
        pytest.param(b" " + GOOD, 400, False, id="space first"),
        pytest.param(lines(first=b"GET  / HTTP/1.1"), 400, False, id="two spaces"),
        pytest.param(lines(first=b"GET / HTTP/1.1 "), 400, False, id="space behind the version"),
        pytest.param(lines(first=b"GET\t/ HTTP/1.1"), 400, False, id="tab in the request line"),
        pytest.param(lines(first=b"GET /"), 400, False, id="HTTP/0.9"),
        pytest.param(lines(first=b"GET / HTTP/2.0"), 505, True, id="HTTP/2"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\n", 505, True, id="HTTP/2 preface"),
        pytest.param(lines(host=b""), 400, False, id="no host"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", 400, True, id="no host in 1.0"),
        pytest.param(lines(b"Host: b.org"), 400, False, id="two hosts"),
        pytest.param(lines(b"host: a.org"), 400, False, id="the same host twice"),
        pytest.param(lines(b": x"), 400, False, id="header without a name"),
        pytest.param(lines(b"X"), 400, False, id="header without a colon"),
        pytest.param(lines("X-é: 1".encode()), 400, False, id="header name not ASCII"),
        pytest.param(lines(first=b"CONNECT b.org:22 HTTP/1.1"), 403, True, id="CONNECT (NET-14)"),
        pytest.param(lines(first=b"TRACE / HTTP/1.1"), 403, True, id="TRACE"),
        pytest.param(lines(first=b"get / HTTP/1.1"), 400, True, id="lower case method"),
        pytest.param(lines(first=b"G'T / HTTP/1.1"), 400, True, id="odd method"),
        pytest.param(lines(b"Upgrade: websocket", b"Connection: Upgrade"), 403, True, id="upgrade"),
        pytest.param(lines(b"Upgrade: h2c", b"HTTP2-Settings: AAA"), 403, True, id="h2c"),
        pytest.param(lines(b"Connection: keep-alive, Upgrade"), 403, True, id="upgrade in a list"),
        pytest.param(lines(b"Expect: everything"), 417, True, id="unknown expectation"),
        pytest.param(lines(b"Authorization: a", b"Authorization: b"), 400, True, id="two authorizations"),
        pytest.param(lines(*[b"X: 1"] * 300), 431, True, id="too many headers"),
        pytest.param(lines(b"X: " + b"a" * 70000), 431, None, id="too long"),
        pytest.param(lines(first=b"GET /" + b"a" * 20000 + b" HTTP/1.1"), 414, None, id="long target"),
    ],
)
def test_ambiguous_heads_are_refused(attack: bytes, status: int, *, h11_takes_it: bool | None) -> None:
    with pytest.raises(Refusal) as caught:
        parse_head(attack, LIMITS)
    assert caught.value.status == status
    assert caught.value.close
    if h11_takes_it is not None:
        # Where h11 alone takes it, our own look at the bytes is what stands in the way.
        assert _h11_takes(attack) is h11_takes_it
    assert parse_head(GOOD, LIMITS).length == 5


def _h11_takes(data: bytes) -> bool:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    parser.receive_data(data)
    try:
        return isinstance(parser.next_event(), h11.Request)
    except h11.RemoteProtocolError:
        return False


def test_net_22_a_head_that_cannot_become_one_is_refused_before_its_end() -> None:
    for beginning in (b"GET / HTTP/1.1\n", b"\0", b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 300, b"a" * 70000, b"a\rb"):
        with pytest.raises(Refusal):
            check_bytes(beginning, LIMITS)
    for beginning in (b"", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost"):
        check_bytes(beginning, LIMITS)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a.org", "a.org", 80),
        ("A.Org.", "a.org", 80),
        ("a.org:", "a.org", 80),
        ("a.org:8080", "a.org", 8080),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]:8080", "::1", 8080),
        ("[::FFFF:127.0.0.1]", "127.0.0.1", 80),
    ],
)
def test_net_15_spellings_of_a_host_are_one(text: str, host: str, port: int) -> None:
    assert parse_authority(text, "http") == Authority(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ":80", "user@a.org", "a.org@b.org", "a.org,b.org", "a.org b.org", "a.org/x", "a.org:80:80", "a.org:x",
        "a.org:0", "a.org:65536", "a%2eorg", "a_!.org", "*.org", "127.1", "0x7f000001", "2130706433", "0177.0.0.1",
        "[::1",        "[a.org]", "[::1%25lo]", "::1", "a..org", ".", "b\xfccher.example", "a.org:+80", "a.org:\u0663",
    ],
)  # fmt: skip
def test_net_15_other_forms_of_a_host_are_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_authority(text, "http")
    assert caught.value.status == 400


def test_absolute_targets_are_taken_apart() -> None:
    assert split_absolute(b"http://a.org/x?y") == ("http", "a.org", b"/x?y")
    assert split_absolute(b"HTTP://a.org?y") == ("http", "a.org", b"/?y")
    for other in (b"ftp://a.org/", b"a.org:80", b"javascript:x"):
        with pytest.raises(Refusal):
            split_absolute(other)
