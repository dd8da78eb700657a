"""NET-22: one sandbox cannot make its proxy hold much, or wait long, and its other connections go on."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
from interception import World, read_answer, wait_until

from sandlock_proxy import Limits

ORDINARY = b"GET /ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"


@pytest.mark.parametrize(
    ("attack", "status"),
    [
        (b"GET /ok/x HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431),
        (b"GET /ok/x HTTP/1.1\r\nX: " + b"a" * 2_000_000, 431),
        (b"GET /ok/" + b"a" * 2_000_000, 431),
        (b"a" * 2_000_000, 431),
    ],
)
def test_large_heads_end_early(world: World, attack: bytes, status: int) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    connection = world.intercept(proxy, server.port)

    def send() -> None:
        try:
            connection.sendall(attack)
        except OSError:
            return

    thread = threading.Thread(target=send)
    thread.start()
    assert read_answer(connection).status == status
    connection.close()
    thread.join(10)
    assert world.ask(proxy, server.port, ORDINARY).status == 200


def test_a_head_that_drips_is_ended_however_steady(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, limits=Limits(head_s=1.0, linger_s=0.1))
    connection = world.intercept(proxy, server.port)
    start = time.monotonic()
    connection.settimeout(0.1)
    got = b""
    while not got:
        connection.sendall(b"X")
        try:
            got = connection.recv(100)
        except TimeoutError:
            assert time.monotonic() - start < 5
    assert b" 408 " in got
    assert time.monotonic() - start > 0.8
    assert world.ask(proxy, server.port, ORDINARY).status == 200


def test_an_idle_connection_is_closed(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, limits=Limits(idle_s=0.3))
    kept = world.intercept(proxy, server.port)
    kept.sendall(ORDINARY.replace(b"{port}", str(server.port).encode()))
    assert read_answer(kept).status == 200
    silent = world.intercept(proxy, server.port)
    assert kept.recv(10) == b""
    assert silent.recv(10) == b""
    wait_until(lambda: proxy.connections == 0)


def test_a_body_that_stalls_is_ended(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, limits=Limits(stall_s=0.3, linger_s=0.1))
    head = b"PUT /ok/x HTTP/1.1\r\nHost: a.org:{port}\r\nContent-Length: 100\r\n\r\nabc"
    assert world.ask(proxy, server.port, head).status == 408
    assert server.requests == []


def test_connections_beyond_the_limit_are_refused_and_the_others_go_on(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, limits=Limits(connections=20))
    held = [world.intercept(proxy, server.port) for _ in range(20)]
    wait_until(lambda: proxy.connections == 20)
    more = [world.intercept(proxy, server.port) for _ in range(50)]
    for connection in more:
        assert connection.recv(10) == b""
    assert world.events[-1].status == 503
    held[0].sendall(ORDINARY.replace(b"{port}", str(server.port).encode()))
    assert read_answer(held[0]).status == 200
    held[1].close()
    wait_until(lambda: proxy.connections == 19)
    assert world.ask(proxy, server.port, ORDINARY).status == 200


def test_a_client_that_never_reads_its_answer_is_ended(world: World) -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(1) != b"\n":
            pass
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000_000)

    server = world.server(serve)
    proxy = world.proxy(server.port, limits=Limits(stall_s=0.5))
    connection = world.intercept(proxy, server.port)
    wait_until(lambda: proxy.connections == 1)
    connection.sendall(ORDINARY.replace(b"{port}", str(server.port).encode()))
    wait_until(lambda: proxy.connections == 0)


def test_closing_the_proxy_ends_everything(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    connections = [world.intercept(proxy, server.port) for _ in range(5)]
    connections[0].sendall(b"GET /ok")
    wait_until(lambda: proxy.connections == 5)
    world.run(proxy.close())
    assert proxy.connections == 0
    for connection in connections:
        try:
            assert connection.recv(10) == b""
        except ConnectionResetError:
            continue


def test_connections_leave_nothing_behind(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def use() -> None:
        for ending in (ORDINARY, b"GET /no HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n", b"junk\r\n\r\n", b"GET", b""):
            connection = world.intercept(proxy, server.port)
            connection.sendall(ending.replace(b"{port}", str(server.port).encode()))
            if ending.endswith(b"\r\n\r\n"):
                read_answer(connection)
            connection.close()
        wait_until(lambda: proxy.connections == 0)

    use()
    time.sleep(0.3)
    before = descriptors()
    for _ in range(20):
        use()
    wait_until(lambda: descriptors() <= before)
