"""Requests put together from what smuggling is made of: what arrives is what was judged, and nothing else.

The server is h11, which must agree with the proxy on how many requests there were, where they went and what they held.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interception import Server, World

from sandlock_proxy import Limits, Proxy
from sandlock_proxy.target import parse_target
from sandlock_testkit.profiles import examples

methods = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"get", b"CONNECT", b"TRACE", b"G(T", b""])
paths = st.lists(
    st.sampled_from(
        [b"/ok", b"/ok/", b"/secret", b"/..", b"/.", b"//", b"/%2e%2e", b"%2f", b";", b"?a=b", b"#", b"\\", b"x"]
    ),
    max_size=5,
).map(lambda parts: b"/ok/" + b"".join(parts))
targets = st.one_of(paths, st.sampled_from([b"*", b"http://a.org:{port}/ok/x", b"http://b.org/x", b"b.org:22", b""]))
versions = st.sampled_from(
    [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b""]
)
headers = st.sampled_from(
    [
        b"Host: a.org:{port}", b"Host: b.org", b"Host: a.org", b"Content-Length: 5", b"Content-Length: 0",
        b"Content-Length: 5, 5", b"content-length:5", b"Content-Length : 5", b"Content_Length: 5",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, chunked",
        b"Transfer_Encoding: chunked",
        b" Transfer-Encoding: chunked", b"X: y\rZ: z", b"X: y\nContent-Length: 9", b"Connection: close",
        b"Connection: Content-Length", b"Connection: Host", b"Upgrade: h2c", b"Expect: 100-continue", b"X: \xff",
        b"X:", b":",        b"X-HTTP-Method-Override: DELETE",
    ]
)  # fmt: skip
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b" \r\n"])
bodies = st.sampled_from(
    [
        b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5;x\r\nhello\r\n0\r\nT: 1\r\n\r\n", b"5\nhello\n0\n\n",
        b"0\r\n\r\n", b"05\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n",
        b"GET /secret HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffffffffff\r\n", b"5\r\nhello\r\n",
    ]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, mostly of sound parts, so that many of them pass."""
    if draw(st.booleans()):
        start = draw(st.sampled_from([b"GET /ok/a HTTP/1.1", b"POST /ok/b HTTP/1.1"]))
        lines = [start, b"Host: a.org:{port}", *draw(st.lists(headers, max_size=2))]
    else:
        start = b" ".join([draw(methods), draw(targets), draw(versions)])
        lines = [start, *draw(st.lists(headers, max_size=4))]
    out = b"".join(line + draw(ends) for line in lines)
    return out + draw(ends) + draw(bodies)


class Shared:
    """One world for all examples: a server and a proxy cost more than a request."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server: Server = world.server()
        limits = Limits(head_s=0.15, idle_s=0.15, stall_s=0.15, response_s=0.5, linger_s=0.02)
        self.proxy: Proxy = world.proxy(self.server.port, limits=limits)
        self.allowed = 0

    def send(self, data: bytes) -> bytes:
        """Send `data`, and return everything that comes back until the proxy ends the connection."""
        connection = self.world.intercept(self.proxy, self.server.port)
        connection.settimeout(10)
        got = b""
        try:
            connection.sendall(data.replace(b"{port}", str(self.server.port).encode()))
            while piece := connection.recv(65536):
                got += piece
        except (ConnectionResetError, BrokenPipeError):
            return got  # an end too; silence would be a TimeoutError, and fail
        finally:
            connection.close()
        return got


@pytest.fixture
def shared(world: World) -> Shared:
    return Shared(world)


@settings(
    max_examples=examples(250),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(requests(), min_size=1, max_size=3).map(b"".join))
def test_net_17_what_arrives_is_what_was_judged(shared: Shared, data: bytes) -> None:
    world, server = shared.world, shared.server
    world.events.clear()
    server.requests.clear()
    server.faults.clear()
    shared.send(data)
    # Nothing that h11 cannot read was forwarded; a body that its client never sent ends with the connection.
    assert [fault for fault in server.faults if "peer closed connection" not in fault] == []
    allowed = [(event.method, event.path) for event in world.events if event.verdict == "allowed"]
    arrived = [(seen.method, parse_target(seen.target.encode()).path) for seen in server.requests]
    # A body that never came, or not as announced, ends a request that was allowed: it does not arrive whole.
    rest = iter(allowed)
    assert all(one in rest for one in arrived)
    assert all(path.startswith("/ok/") and ".." not in path for _, path in arrived)
    for seen in server.requests:
        assert seen.all("host") == [f"a.org:{server.port}"]
        assert parse_target(seen.target.encode()).text == seen.target  # the normal form, not the client's
        assert len(seen.body) in (0, 5)  # no framing above gives any other length


def test_the_fuzz_reaches_the_server(shared: Shared) -> None:
    # Without this, a proxy that refuses everything would pass.
    head = b"POST /ok/b HTTP/1.1\r\nHost: a.org:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    good = head + b"5;x\r\nhello\r\n0\r\nT: 1\r\n\r\n"
    assert shared.send(good * 2).count(b"HTTP/1.1 200") == 2
    assert [seen.body for seen in shared.server.requests] == [b"hello"] * 2
