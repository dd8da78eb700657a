"""A server that says how h11 and nobody else understood it, a proxy in a loop of its own, and intercepted sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import h11

from sandlock_proxy import CertificateAuthority, Credentials, HttpEvent, HttpRules, Limits, Proxy, Secret

__all__ = ["ATTACK_RULES", "Answer", "Seen", "Server", "World", "read_answer", "wait_until"]

T = TypeVar("T")
ATTACK_RULES = ("* a.org:{port}/ok/*",)
SECRET = "s3cr3t-Token/value+1"
Handler = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Seen:
    """One request as the server's h11 read it."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of the header `name`."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    closed: bool


class Server:
    """Answers every request with what h11 understood of it; or does what `handler` does with each connection."""

    def __init__(self, handler: Handler | None = None, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self.raw = bytearray()
        self.faults: list[str] = []
        self.connections = 0
        self._handler = handler or self._answer_all
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A thread that waits in accept keeps the socket; shutdown wakes it.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        with connection, contextlib.suppress(OSError):
            if self._context is not None:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self._handler(secure)
            else:
                self._handler(connection)

    def _answer_all(self, connection: socket.socket) -> None:
        parser = h11.Connection(h11.SERVER)
        while True:
            request: h11.Request | None = None
            body = b""
            while True:
                try:
                    event = parser.next_event()
                except h11.RemoteProtocolError as fault:
                    self.faults.append(str(fault))
                    return
                if event is h11.NEED_DATA:
                    data = connection.recv(65536)
                    self.raw += data
                    parser.receive_data(data)
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return
            assert request is not None
            headers = tuple((name.decode(), value.decode("latin-1")) for name, value in request.headers)
            seen = Seen(request.method.decode(), request.target.decode(), headers, body)
            self.requests.append(seen)
            text = json.dumps({"method": seen.method, "target": seen.target, "headers": headers, "size": len(body)})
            out = parser.send(h11.Response(status_code=200, headers=[("Content-Length", str(len(text)))])) or b""
            if seen.method != "HEAD":
                out += parser.send(h11.Data(data=text.encode())) or b""
            connection.sendall(out + (parser.send(h11.EndOfMessage()) or b""))
            if parser.our_state is not h11.DONE:
                return
            parser.start_next_cycle()


@dataclass
class World:
    """A proxy in a loop of its own thread, and what it is to serve."""

    events: list[HttpEvent] = field(default_factory=list)
    names: dict[str, Collection[str]] = field(default_factory=lambda: {"a.org": ["127.0.0.1"], "b.org": ["127.0.0.1"]})

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxies: list[Proxy] = []
        self._servers: list[Server] = []
        self._sockets: list[socket.socket] = []
        self.faults: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self.faults.append(context))

    def close(self) -> None:
        for one in self._sockets:
            one.close()
        for proxy in self._proxies:
            self.run(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        for server in self._servers:
            server.close()
        assert not self.faults, self.faults

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the proxy's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def server(self, handler: Handler | None = None, context: ssl.SSLContext | None = None) -> Server:
        made = Server(handler, context)
        self._servers.append(made)
        return made

    def proxy(
        self,
        port: int,
        allow: Iterable[str] = ATTACK_RULES,
        deny: Iterable[str] = (),
        *,
        auth: Iterable[str] = (),
        limits: Limits | None = None,
        ca: CertificateAuthority | None = None,
        **more: Any,  # what Proxy takes, checked there
    ) -> Proxy:
        """Make a proxy for a server at `port`, which stands for `{port}` in rules."""

        async def resolve(name: str) -> Collection[str]:
            return self.names.get(name, ())

        def fill(rules: Iterable[str]) -> list[str]:
            return [rule.replace("{port}", str(port)) for rule in rules]

        made = Proxy(
            HttpRules(fill(allow), fill(deny)),
            credentials=Credentials({"TOKEN": Secret("TOKEN", SECRET)}, fill(auth)),
            ca=ca,
            **{"resolve": resolve, "on_event": self.events.append, **more},
            limits=limits or Limits(head_s=5, idle_s=20, linger_s=0.2),
        )
        self.run(made.start())
        self._proxies.append(made)
        return made

    def intercept(self, proxy: Proxy, port: int, address: str = "127.0.0.1") -> socket.socket:
        """Return a program's end of a connection to `address` and `port` that the proxy got instead."""
        ours, theirs = socket.socketpair()
        ours.settimeout(15)
        self._sockets.append(ours)

        async def adopt() -> None:
            proxy.adopt(theirs, (address, port))

        self.run(adopt())
        return ours

    def door(self, proxy: Proxy, port: int) -> int:
        """Return a TCP port whose connections the proxy gets as intercepted ones to `port`, for real clients."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(listener)
        listener.setblocking(False)

        async def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = await self._loop.sock_accept(listener)
                    proxy.adopt(connection, ("127.0.0.1", port))

        async def begin() -> None:
            proxy._track(asyncio.create_task(accept()))

        self.run(begin())
        return int(listener.getsockname()[1])

    def ask(self, proxy: Proxy, port: int, request: bytes) -> Answer:
        """Send `request` on a connection of its own and return the answer to it."""
        connection = self.intercept(proxy, port)
        connection.sendall(request.replace(b"{port}", str(port).encode()))
        method = request.split(b" ", 1)[0].decode("latin-1")
        return read_answer(connection, method)


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    """Return the next answer; `closed` tells whether the connection ended with it or right behind it."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="HEAD" if method == "HEAD" else "GET", target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    response: h11.Response | None = None
    body = b""
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(connection.recv(65536))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
        elif not isinstance(event, h11.InformationalResponse):
            raise ConnectionError("closed without an answer")
    assert response is not None
    headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
    closed = headers.get("connection") == "close"
    return Answer(response.status_code, headers, body, closed)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait for `condition`; fail when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
