"""The processes of bench_proxy: a server, and our proxy in both of its modes; started as `proxy_parts.py PART ...`."""

from __future__ import annotations

import asyncio
import socket
import sys

from sandlock_proxy import HttpRules, Proxy

__all__ = ["BIG", "SMALL", "main"]

SMALL = b"x" * 200
BIG = 16 << 20
_PIECE = b"y" * (1 << 18)


class Server(asyncio.Protocol):
    """Answers `/small` and `/big`, and counts what is put to it; as little work as a server in Python can do."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self.buffer = b""
        self.left = 0
        self.task: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.writable.set()

    def pause_writing(self) -> None:
        """Wait."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        if self.left:
            self.left -= len(data)
            if self.left == 0:
                self.answer(b"received")
            return
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head, self.buffer = self.buffer[:end].lower(), self.buffer[end + 4 :]
            if head.startswith(b"get /big"):
                self.task = asyncio.create_task(self.send_big())
            elif head.startswith(b"put"):
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                self.left, self.buffer = length - len(self.buffer), b""
            else:
                self.answer(SMALL)

    def answer(self, body: bytes) -> None:
        """Send a small answer."""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def send_big(self) -> None:
        """Send 16 MiB, no faster than they are taken."""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        for _ in range(BIG // len(_PIECE)):
            await self.writable.wait()
            self.transport.write(_PIECE)


async def serve() -> None:
    """Be the server; the first line says where."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def proxy(server_port: int) -> None:
    """Be the proxy, listening with a secret; and on a second port taking connections as if they were intercepted."""
    made = Proxy(HttpRules([f"* 127.0.0.1:{server_port}/*"]))
    await made.start()
    listening = await made.listen()
    accepting = socket.create_server(("127.0.0.1", 0))
    accepting.setblocking(False)
    print(listening.port, listening.secret, accepting.getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(accepting)
        made.adopt(connection, ("127.0.0.1", server_port))


def main() -> None:
    """Be the part that the arguments name."""
    asyncio.run(serve() if sys.argv[1] == "server" else proxy(int(sys.argv[2])))


if __name__ == "__main__":
    main()
