"""The attacks of the catalogue on a running proxy; each with a control that the same thing, done honestly, works."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket

import pytest
from interception import Server, World, read_answer

from sandlock_proxy import Proxy


def honest(world: World, proxy: Proxy, server: Server) -> None:
    """The control: an ordinary request is served."""
    before = len(server.requests)
    answer = world.ask(proxy, server.port, b"GET /ok/control HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n")
    assert answer.status == 200
    assert json.loads(answer.body)["target"] == "/ok/control"
    assert len(server.requests) == before + 1


@pytest.mark.parametrize("target", ["b.org:22", "127.0.0.1:22", "a.org:{port}", "a.org:443"])
def test_net_14_connect_is_refused_and_opens_nothing(world: World, target: str) -> None:
    server = world.server()
    proxy = world.proxy(server.port, ["* */*"])
    answer = world.ask(proxy, server.port, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert (answer.status, answer.closed) == (403, True)
    assert server.connections == 0
    assert world.events[-1].verdict == "refused"
    honest(world, proxy, server)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /ok/x HTTP/1.1\r\nHost: b.org:{port}\r\n\r\n", 403),  # no rule for b.org
        (b"GET http://b.org:{port}/ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n", 400),
        (b"GET http://a.org:{port}/ok/x HTTP/1.1\r\nHost: b.org:{port}\r\n\r\n", 400),
        (b"GET http://a.org:1/ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n", 400),
        (b"GET https://a.org:{port}/ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n", 400),
        (b"GET /ok/x HTTP/1.1\r\nHost: a.org:{port}\r\nHost: b.org:{port}\r\n\r\n", 400),
        (b"GET /ok/x HTTP/1.1\r\nHost: a.org:1\r\n\r\n", 403),  # W-60: another port than the connection's
        (b"GET /ok/x HTTP/1.1\r\nHost: a.org\r\n\r\n", 403),
        (b"GET /ok/x HTTP/1.1\r\nHost: u@a.org:{port}\r\n\r\n", 400),
        (b"GET http://u@a.org:{port}/ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n", 400),
        (b"GET /ok/x HTTP/1.1\r\nHost: moved.a.org:{port}\r\n\r\n", 403),
        (b"GET /ok/x HTTP/1.1\r\nHost: unknown.a.org:{port}\r\n\r\n", 403),
        (b"GET /ok/x HTTP/1.1\r\nHost: 127.0.0.2:{port}\r\n\r\n", 403),
    ],
)
def test_net_15_host_target_and_destination_agree(world: World, head: bytes, status: int) -> None:
    world.names["moved.a.org"] = ["127.0.0.2"]
    server = world.server()
    proxy = world.proxy(server.port, ["* a.org:{port}/ok/*", "* *.a.org/ok/*", "* 127.0.0.2/*"])
    assert world.ask(proxy, server.port, head).status == status
    assert server.requests == []
    for spelling in (b"A.ORG.", b"a.org"):
        request = b"GET http://" + spelling + b":{port}/ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"
        assert world.ask(proxy, server.port, request).status == 200
        assert server.requests[-1].target == "/ok/x"
        assert server.requests[-1].all("host") == [f"a.org:{server.port}"]
    honest(world, proxy, server)


def test_net_15_an_address_as_host_is_the_destination(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, ["GET 127.0.0.1:{port}/*"])
    for host in (b"127.0.0.1", b"[::ffff:127.0.0.1]"):
        assert world.ask(proxy, server.port, b"GET / HTTP/1.1\r\nHost: " + host + b":{port}\r\n\r\n").status == 200


START = b"POST /ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n"
SMUGGLED = b"GET /secret HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"


@pytest.mark.parametrize(
    "attack",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked \t, identity\r\n\r\n0\r\n\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"X: y\nContent-Length: 0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n",
        b"Content_Length: 60\r\n\r\n",
        b"Upgrade: h2c\r\nHTTP2-Settings: AAA\r\nConnection: Upgrade\r\n\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    ],
)  # fmt: skip
def test_net_17_nothing_is_smuggled_behind_a_request(world: World, attack: bytes) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    connection = world.intercept(proxy, server.port)
    connection.sendall((START + attack + SMUGGLED).replace(b"{port}", str(server.port).encode()))
    answer = read_answer(connection)
    assert answer.status in (400, 403, 501)
    assert answer.closed
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(65536) == b""  # and nothing behind it is answered
    assert [seen for seen in server.requests if seen.target != "/ok/x"] == []
    assert b"/secret" not in server.raw
    honest(world, proxy, server)


def test_net_17_each_pipelined_request_is_judged_by_itself(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    connection = world.intercept(proxy, server.port)
    one = b"GET /ok/1 HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"
    body = b"POST /ok/2 HTTP/1.1\r\nHost: a.org:{port}\r\nContent-Length: 4\r\n\r\nGET "
    chunks = b"POST /ok/3 HTTP/1.1\r\nHost: a.org:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks += b"4;x=y\r\nGET \r\n0\r\nX: y\r\n\r\n"
    connection.sendall((one + SMUGGLED + body + chunks + one).replace(b"{port}", str(server.port).encode()))
    assert [read_one(connection) for _ in range(5)] == [200, 403, 200, 200, 200]
    assert [seen.target for seen in server.requests] == ["/ok/1", "/ok/2", "/ok/3", "/ok/1"]
    assert [seen.body for seen in server.requests] == [b"", b"GET ", b"GET ", b""]
    assert server.faults == []


def read_one(connection: socket.socket) -> int:
    """Read one answer with a Content-Length, byte by byte, leaving the next one alone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while length:
        length -= len(connection.recv(length))
    return int(head.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "path",
    [
        "/ok/../secret", "/ok/%2e%2e/secret", "/ok/..;/secret", "/ok/%252e%252e/secret", "/ok/..%2fsecret",
        "/ok/..%5csecret",
        "/ok\\..\\secret", "//secret", "/ok/%c0%ae%c0%ae/secret", "/ok%00/secret", "/secret", "/OK/x", "/secret;/ok/",
        "/ok", "/okay/x", "/ok/.%2e/secret", "/./secret", "/ok/x#/../secret",
    ],
)  # fmt: skip
def test_net_18_no_spelling_leaves_the_allowed_path(world: World, path: str) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    assert world.ask(proxy, server.port, f"GET {path} HTTP/1.1\r\nHost: a.org:{{port}}\r\n\r\n".encode()).status in (
        400,
        403,
    )
    assert server.requests == []
    honest(world, proxy, server)


@pytest.mark.parametrize(
    "path",
    [
        "/admin/x", "/ADMIN/x", "/Admin/X", "//admin/x", "/a/../admin/x", "/%61dmin/x", "/admin;v=1/x", "/./admin/x",
        "/admin%3bx/x", "/admin/%78", "/admin//x", "/a/..//admin/x",
    ],
)  # fmt: skip
def test_net_18_no_spelling_passes_a_denial(world: World, path: str) -> None:
    server = world.server()
    proxy = world.proxy(server.port, [], ["* */admin/*"])
    answer = world.ask(proxy, server.port, f"GET {path} HTTP/1.1\r\nHost: a.org:{{port}}\r\n\r\n".encode())
    assert answer.status == 403
    assert b"http.deny[0] * */admin/*" in answer.body
    assert server.requests == []
    honest(world, proxy, server)


def test_net_18_what_was_judged_is_what_is_sent(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    request = b"GET //ok/./a/../%7eb%2Fc/../d?q=%2e%2e HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"
    assert world.ask(proxy, server.port, request).status == 400  # %2F
    request = b"GET //ok/./a/../%7eb/d?q=%2e%2e HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"
    assert world.ask(proxy, server.port, request).status == 200
    assert server.requests[-1].target == "/ok/~b/d?q=%2e%2e"


def test_net_19_methods_are_compared_exactly(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, ["GET a.org:{port}/*"], [])
    for method, status in {"GET": 200, "HEAD": 403, "POST": 403, "get": 400, "GETX": 403, "TRACE": 403}.items():
        head = f"{method} /x HTTP/1.1\r\nHost: a.org:{{port}}\r\n\r\n".encode()
        assert world.ask(proxy, server.port, head).status == status
    assert [seen.method for seen in server.requests] == ["GET"]


def test_net_19_headers_that_override_method_or_path_do_not_arrive(world: World) -> None:
    server = world.server()
    override = (
        b"GET /ok/x HTTP/1.1\r\nHost: a.org:{port}\r\nX-HTTP-Method-Override: DELETE\r\nX_Original_URL: /secret\r\n\r\n"
    )
    assert world.ask(world.proxy(server.port), server.port, override).status == 200
    assert {name for name, _ in server.requests[-1].headers} == {"host"}
    assert world.ask(world.proxy(server.port, strip_overrides=False), server.port, override).status == 200
    assert server.requests[-1].all("x-http-method-override") == ["DELETE"]  # the control: it would have arrived


def test_w_61_the_network_rules_are_asked_about_the_address(world: World) -> None:
    server = world.server()
    asked: list[tuple[str, int]] = []

    def may_connect(address: str, port: int) -> bool:
        asked.append((address, port))
        return len(asked) > 1

    proxy = world.proxy(server.port, ["* */*"], may_connect=may_connect)
    request = b"GET / HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"
    assert world.ask(proxy, server.port, request).status == 403
    assert server.connections == 0
    assert world.ask(proxy, server.port, request).status == 200
    assert asked == [("127.0.0.1", server.port)] * 2


def test_w_62_a_listening_proxy_serves_only_who_knows_its_secret(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, auth=["GET a.org:{port}/ok/* bearer TOKEN"])
    listening = world.run(proxy.listen())
    assert listening.secret not in repr(listening)
    good = base64.b64encode(f"sandlock:{listening.secret}".encode()).decode()
    statuses = {}
    for given in ("", "Basic " + base64.b64encode(b"sandlock:guess").decode(), f"Basic {good}"):
        with socket.create_connection((listening.address, listening.port), timeout=10) as client:
            line = f"Proxy-Authorization: {given}\r\n" if given else ""
            target = f"http://a.org:{server.port}/ok/x"
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: a.org:{server.port}\r\n{line}\r\n".encode())
            statuses[given] = read_answer(client).status
    assert list(statuses.values()) == [407, 407, 200]
    assert len(server.requests) == 1
    assert server.requests[0].all("proxy-authorization") == []


def test_w_62_a_proxy_that_is_not_asked_to_listen_has_no_port(world: World) -> None:
    with open("/proc/self/net/tcp", encoding="ascii") as file:
        before = {line.split()[9] for line in file.readlines()[1:]}
    server = world.server()
    proxy = world.proxy(server.port)
    honest(world, proxy, server)
    with open("/proc/self/net/tcp", encoding="ascii") as file:
        listening = [line.split() for line in file.readlines()[1:] if line.split()[3] == "0A"]
    ours = [fields for fields in listening if fields[9] not in before]
    assert [int(fields[1].split(":")[1], 16) for fields in ours if _is_mine(fields[9])] == [server.port]


def _is_mine(inode: str) -> bool:
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == f"socket:[{inode}]":
                return True
    return False
