"""What honest programs do: bodies of every kind, both ways, kept connections, streams, and ends of all sorts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
import time

import pytest
from interception import World, read_answer, wait_until

from sandlock_proxy import HttpEvent, Limits

HEAD = "Host: a.org:{port}\r\n"


def request(port: int, text: str, body: bytes = b"") -> bytes:
    return text.replace("{port}", str(port)).encode() + body


def drain_head(connection: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        got += connection.recv(1)
    return got


def test_a_connection_is_kept_on_both_sides(world: World) -> None:
    server = world.server()
    connection = world.intercept(world.proxy(server.port), server.port)
    for number in range(5):
        connection.sendall(request(server.port, f"GET /ok/{number} HTTP/1.1\r\n{HEAD}\r\n"))
        assert json.loads(read_answer(connection).body)["target"] == f"/ok/{number}"
    assert server.connections == 1


def test_head_and_bodiless_answers_are_passed_on(world: World) -> None:
    server = world.server()
    connection = world.intercept(world.proxy(server.port), server.port)
    for method in ("HEAD", "GET", "HEAD"):
        connection.sendall(request(server.port, f"{method} /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
        answer = read_answer(connection, method)
        assert answer.status == 200
        assert bool(answer.body) == (method == "GET")
        assert int(answer.headers["content-length"]) > 0


def test_headers_pass_with_their_spelling_and_hop_by_hop_ones_do_not(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    hops = "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\n"
    text = f"GET /ok/x HTTP/1.1\r\n{HEAD}X-Custom: a\tb \xe9\r\n{hops}\r\n"
    data = text.replace("{port}", str(server.port)).encode("latin-1")
    assert world.ask(proxy, server.port, data).status == 200
    assert server.requests[0].all("x-custom") == ["a\tb \xe9"]
    assert {name for name, _ in server.requests[0].headers} == {"host", "x-custom"}
    assert b"\r\nX-Custom: " in server.raw


@pytest.mark.parametrize("chunks", [False, True])
def test_large_uploads_arrive_whole(world: World, *, chunks: bool) -> None:
    server = world.server()
    connection = world.intercept(world.proxy(server.port), server.port)
    body = bytes(range(256)) * 20_000
    framing = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}"
    connection.sendall(request(server.port, f"PUT /ok/x HTTP/1.1\r\n{HEAD}{framing}\r\n\r\n"))
    pieces = [body[at : at + 70_001] for at in range(0, len(body), 70_001)]
    for piece in pieces:
        connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunks else piece)
    if chunks:
        connection.sendall(b"0\r\n\r\n")
    assert read_answer(connection).status == 200
    assert hashlib.sha256(server.requests[0].body).digest() == hashlib.sha256(body).digest()
    connection.sendall(request(server.port, f"GET /ok/y HTTP/1.1\r\n{HEAD}\r\n"))
    assert json.loads(read_answer(connection).body)["target"] == "/ok/y"


@pytest.mark.parametrize(
    ("framing", "version"),
    [(framing, version) for framing in ("sized", "chunked", "until close") for version in ("1.1", "1.0")],
)
def test_large_downloads_arrive_whole(world: World, framing: str, version: str) -> None:
    body = bytes(range(256)) * 20_000

    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        if framing == "chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 99_999):
                piece = body[at : at + 99_999]
                connection.sendall(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\nX-Trailer: 1\r\n\r\n")
            connection.recv(1)
        elif framing == "sized":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            connection.recv(1)
        else:
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(request(server.port, f"GET /ok/x HTTP/{version}\r\n{HEAD}\r\n"))
    answer = read_answer(connection)
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


def test_100_continue_goes_all_the_way(world: World) -> None:
    def serve(connection: socket.socket) -> None:
        assert b"expect: 100-continue" in drain_head(connection).lower()
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = connection.recv(5)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + data)
        connection.recv(1)

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(
        request(server.port, f"PUT /ok/x HTTP/1.1\r\n{HEAD}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    )
    assert drain_head(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"hello")
    assert read_answer(connection).body == b"hello"


def test_an_early_answer_arrives_before_the_body_is_sent(world: World) -> None:
    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(
        request(server.port, f"PUT /ok/x HTTP/1.1\r\n{HEAD}Content-Length: 100000000\r\n\r\n", b"x" * 1000)
    )
    answer = read_answer(connection)
    assert (answer.status, answer.body) == (413, b"no")


def test_an_early_answer_survives_a_client_that_sends_first_and_reads_later(world: World) -> None:
    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        time.sleep(1)

    server = world.server(serve)
    proxy = world.proxy(server.port, limits=Limits(linger_s=5))
    with socket.create_connection(("127.0.0.1", world.door(proxy, server.port)), timeout=10) as client:
        client.sendall(request(server.port, f"PUT /ok/x HTTP/1.1\r\n{HEAD}Content-Length: 100000000\r\n\r\n"))
        for _ in range(8):  # once the connection is reset, sending fails
            client.sendall(b"x" * 20_000)
            time.sleep(0.05)
        assert read_answer(client).status == 413


def test_server_sent_events_arrive_one_by_one(world: World) -> None:
    go = threading.Event()

    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            assert go.wait(10)
            go.clear()
            event = b"data: %d\n\n" % number
            connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
        connection.sendall(b"0\r\n\r\n")
        connection.recv(1)

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    assert b"text/event-stream" in drain_head(connection)  # before there is any event
    for number in range(3):
        go.set()
        got = b""
        while b"data: %d\n\n" % number not in got:
            got += connection.recv(100)


def test_a_slow_reader_makes_the_server_wait(world: World) -> None:
    sent = [0]

    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        while sent[0] < 60_000_000:
            sent[0] += connection.send(b"x" * 65536)

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    wait_until(lambda: sent[0] > 0)
    level = -1
    while level != sent[0]:  # until everything on the way is full
        level = sent[0]
        time.sleep(0.5)
    assert level < 20_000_000  # sockets of the kernel hold some megabytes, the proxy half of one
    got = 0
    while got < 2 * level:
        got += len(connection.recv(1 << 20))
    assert sent[0] > level


def test_a_slow_server_makes_the_client_wait(world: World) -> None:
    hold = threading.Event()

    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        hold.wait(20)

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(request(server.port, f"PUT /ok/x HTTP/1.1\r\n{HEAD}Content-Length: 200000000\r\n\r\n"))
    connection.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 60_000_000:
            sent += connection.send(b"x" * 65536)
    assert sent < 20_000_000
    hold.set()


def test_a_client_that_leaves_ends_the_request_at_the_server(world: World) -> None:
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        with contextlib.suppress(ConnectionResetError):
            connection.recv(1)
        ended.set()

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    wait_until(lambda: server.connections == 1)
    assert not ended.wait(0.3)
    connection.close()
    assert ended.wait(5)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"", 502, b"without an answer"),
        (b"garbage\r\n\r\n", 502, b"not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 502, b"both content-length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 502, b"not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 502, b""),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, 502, b"not HTTP"),
    ],
)
def test_a_server_that_talks_nonsense_is_a_502(world: World, answer: bytes, status: int, words: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(answer)

    server = world.server(serve)
    got = world.ask(world.proxy(server.port), server.port, request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    assert got.status == status
    assert words in got.body
    assert [event.verdict for event in world.events] == ["allowed", "failed"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
    ],
)
def test_a_server_that_lies_about_the_length_breaks_the_connection(world: World, answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(answer)

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    got = b""
    while data := _receive(connection):
        got += data
    assert got.startswith(b"HTTP/1.1 200 OK")
    assert not got.endswith(b"0\r\n\r\n")  # no end that the client could take for one
    wait_until(lambda: [event.verdict for event in world.events] == ["allowed", "failed"])


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def test_bytes_behind_an_answer_are_never_taken_for_the_next_one(world: World) -> None:
    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        )
        connection.recv(1)

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    for _ in range(2):
        connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
        assert read_answer(connection).body == b"one"
    assert server.connections == 2


def test_a_kept_connection_that_the_server_closed_is_made_again(world: World) -> None:
    def serve(connection: socket.socket) -> None:
        drain_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server = world.server(serve)
    connection = world.intercept(world.proxy(server.port), server.port)
    for _ in range(20):
        connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
        assert read_answer(connection).body == b"ok"
    assert server.connections >= 20


def test_a_server_that_is_down_or_silent_is_said_so(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    answer = world.ask(world.proxy(port), port, request(port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    assert (answer.status, b"cannot be reached" in answer.body) == (502, True)

    def stay_silent(connection: socket.socket) -> None:
        drain_head(connection)
        connection.recv(1)

    silent = world.server(stay_silent)
    limits = Limits(response_s=0.3, linger_s=0.1)
    proxy = world.proxy(silent.port, limits=limits)
    answer = world.ask(proxy, silent.port, request(silent.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    assert (answer.status, b"did not answer" in answer.body) == (504, True)


def test_another_address_of_the_name_is_tried_where_nobody_answers(world: World) -> None:
    """Bare, a client goes on to the next address by itself; its connection to the first one was ours, and was made."""
    server = world.server()
    world.names["a.org"] = ["127.0.0.9", "127.0.0.8", "127.0.0.1"]
    asked: list[str] = []

    def may_connect(address: str, port: int) -> bool:
        asked.append(address)
        return address != "127.0.0.1" or port in allowed

    allowed = {server.port}
    for status in (200, 502):
        proxy = world.proxy(server.port, may_connect=may_connect)
        connection = world.intercept(proxy, server.port, "127.0.0.9")
        for _ in range(2):
            connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
            assert read_answer(connection).status == status
        allowed.clear()
    assert (server.connections, len(server.requests)) == (1, 2)
    assert "127.0.0.8" in asked


def test_a_name_that_does_not_resolve_in_time_is_said_so(world: World) -> None:
    async def resolve(_name: str) -> list[str]:
        await asyncio.sleep(30)
        return []

    server = world.server()
    proxy = world.proxy(server.port, resolve=resolve, limits=Limits(connect_s=0.2))
    answer = world.ask(proxy, server.port, request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    assert (answer.status, b"did not resolve within 0.2 s" in answer.body) == (504, True)
    assert server.connections == 0


def test_every_decision_is_an_event_and_text_is_escaped(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, ["GET a.org:{port}/ok/*"], ["* a.org/ok/no*"])
    for path in ("/ok/x?token=query-is-not-logged", "/ok/no", "/other", "/ok/%1b[31m", "/ok/%E2%82%AC"):
        world.ask(proxy, server.port, request(server.port, f"GET {path} HTTP/1.1\r\n{HEAD}\r\n"))
    world.ask(proxy, server.port, b"\x1b[31mGET / HTTP/1.1\r\n\r\n")
    found = [(event.verdict, event.path, event.rule, event.status) for event in world.events]
    allow = f"http.allow[0] GET a.org:{server.port}/ok/*"
    assert found == [
        ("allowed", "/ok/x", allow, 0),
        ("denied", "/ok/no", "http.deny[0] * a.org/ok/no*", 403),
        ("denied", "/other", "", 403),
        ("refused", "/ok/%1b[31m", "", 400),
        ("allowed", "/ok/%E2%82%AC", allow, 0),
        ("refused", "", "", 400),
    ]
    assert all((event.host, event.port) == ("a.org", server.port) for event in world.events[:5])
    assert "query-is-not-logged" not in repr(world.events)
    assert all(repr(event).isprintable() and repr(event).isascii() for event in world.events)


def test_a_decision_that_cannot_be_recorded_is_not_carried_out(world: World) -> None:
    server = world.server()

    def broken(event: HttpEvent) -> None:
        raise OSError("the audit file is full")

    proxy = world.proxy(server.port, on_event=broken)
    connection = world.intercept(proxy, server.port)
    connection.sendall(request(server.port, f"GET /ok/x HTTP/1.1\r\n{HEAD}\r\n"))
    assert _receive(connection) == b""
    assert server.connections == 0
    wait_until(lambda: bool(world.faults))
    assert isinstance(world.faults[0]["exception"], OSError)
    world.faults.clear()  # the task that died says so; that is what is wanted here


def test_two_proxies_in_two_threads_do_not_mix_their_bytes(world: World) -> None:
    other = World()
    wrong: list[int] = []

    def transfer(where: World, byte: int) -> None:
        server = where.server()
        connection = where.intercept(where.proxy(server.port), server.port)
        body = bytes([byte]) * 8_000_000
        for _ in range(5):
            connection.sendall(
                request(server.port, f"PUT /ok/x HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n", body)
            )
            read_answer(connection)
            wrong.append(len(server.requests[-1].body) - server.requests[-1].body.count(byte))

    threads = [threading.Thread(target=transfer, args=pair) for pair in ((world, 65), (other, 66))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    other.close()
    assert wrong == [0] * 10
