"""The server's answer on its way to the client."""

from __future__ import annotations

from dataclasses import dataclass

import h11

from sandlock_proxy.bodies import Pieces, chunk, chunked, sized, until_end
from sandlock_proxy.errors import Refusal
from sandlock_proxy.heads import Head
from sandlock_proxy.limits import Limits
from sandlock_proxy.masking import Mask
from sandlock_proxy.outgoing import hop_by_hop
from sandlock_proxy.stream import Stream, StreamTimeoutError

__all__ = ["NoAnswerError", "Relay"]


class NoAnswerError(ConnectionError):
    """The server closed the connection without a byte of an answer."""


@dataclass(slots=True)
class Relay:
    """One answer. `started` says that the client has seen part of it, so that no other one can be given."""

    client: Stream
    server: Stream
    head: Head
    parser: h11.Connection
    limits: Limits
    mask: Mask | None = None
    started: bool = False
    server_reusable: bool = False
    client_reusable: bool = False

    async def run(self) -> None:
        """Pass the answer on; raises Refusal or NoAnswerError before it started, ConnectionError after."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                break
            await self._inform(event)
        await self._respond(event)

    async def _next(self) -> h11.Response | h11.InformationalResponse:
        """Return the next head of the server."""
        silent = True
        while True:
            try:
                event = self.parser.next_event()
            except h11.RemoteProtocolError as fault:
                if self.server.ended and silent and not self.started:
                    raise NoAnswerError("the server closed the connection without an answer") from None
                raise Refusal(502, f"the server's answer is not HTTP: {fault}"[:200]) from None
            if event is h11.NEED_DATA:
                try:
                    data = await self.server.read(self.limits.response_s)
                except StreamTimeoutError:
                    raise Refusal(504, f"the server did not answer within {self.limits.response_s:g} s") from None
                silent = silent and not data
                try:
                    self.parser.receive_data(data)
                except h11.RemoteProtocolError as fault:
                    raise Refusal(502, f"the server's answer is not HTTP: {fault}"[:200]) from None
            elif isinstance(event, h11.Response | h11.InformationalResponse):
                return event
            else:
                raise NoAnswerError("the server closed the connection without an answer")

    async def _inform(self, event: h11.InformationalResponse) -> None:
        if event.status_code == 101:
            raise Refusal(502, "the server switched to another protocol unasked")
        if self.head.version == b"1.1":  # HTTP/1.0 has none
            await self.client.write(self._write_head(event, {}))

    async def _respond(self, event: h11.Response) -> None:
        headers = {name: value for name, value in event.headers if name in (b"content-length", b"transfer-encoding")}
        if len(headers) == 2:
            raise Refusal(502, "the server's answer has both content-length and transfer-encoding")
        modern = self.head.version == b"1.1"
        framing: dict[bytes, bytes] = {}
        body: Pieces | None = None
        ends_with_connection = False
        whole = b""
        if self.head.method == "HEAD" or event.status_code in (204, 304):
            self.server.put_back(self.parser.trailing_data[0])
            if b"content-length" in headers and event.status_code != 204:
                framing[b"Content-Length"] = headers[b"content-length"]
        elif b"content-length" in headers:
            framing[b"Content-Length"] = headers[b"content-length"]
            self.server.put_back(self.parser.trailing_data[0])
            length = int(headers[b"content-length"])
            if self.mask is None and len(self.server.buffered) >= length:
                whole = self.server.take(length)  # most answers have come whole by now
            else:
                body = sized(self.server, length, self.limits.response_s)
        else:
            if b"transfer-encoding" in headers:
                body = chunked(self.server, self.parser, self.limits.response_s)
            else:
                self.server.put_back(self.parser.trailing_data[0])
                body = until_end(self.server, self.limits.response_s)
                ends_with_connection = True
            if modern:
                framing[b"Transfer-Encoding"] = b"chunked"
        stays = self.head.keeps_alive
        if not stays:
            framing[b"Connection"] = b"close"
        self.started = True
        lines = self._write_head(event, framing)
        if body is None:
            await self.client.write(lines + whole)
        else:
            await self._pass_on(lines, body, in_chunks=b"Transfer-Encoding" in framing)
        self.client_reusable = stays
        self.server_reusable = not ends_with_connection and _keeps_alive(event)

    async def _pass_on(self, waiting: bytes, body: Pieces, *, in_chunks: bool) -> None:
        """Send the head, with the beginning of the body if that is there already, and the rest as it comes."""
        if not self.server.buffered and not self.parser.trailing_data[0]:
            await self.client.write(waiting)
            waiting = b""
        async for piece, last in body:
            data = piece
            if self.mask is not None:
                data = self.mask.feed(piece) + (self.mask.finish() if last else b"")
            if in_chunks:
                data = chunk(data) + b"0\r\n\r\n" if last else chunk(data)
            if waiting or data:
                await self.client.write(waiting + data if waiting else data)
                waiting = b""
        if waiting:  # a body of no bytes
            await self.client.write(waiting)

    def _write_head(self, event: h11.Response | h11.InformationalResponse, framing: dict[bytes, bytes]) -> bytes:
        """Return the head for the client: the server's, in our framing."""
        headers = [(raw, raw.lower(), value) for raw, value in event.headers.raw_items()]
        drop = hop_by_hop([(low, value) for _, low, value in headers])
        lines = [b"HTTP/1.1 %d %b" % (event.status_code, event.reason)]
        lines += [
            raw + b": " + (value if self.mask is None else self.mask.whole(value))
            for raw, low, value in headers
            if low not in drop and low != b"content-length"
        ]
        lines += [name + b": " + value for name, value in framing.items()]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _keeps_alive(event: h11.Response) -> bool:
    if event.http_version != b"1.1":
        return False
    return not any(name == b"connection" and b"close" in value.lower() for name, value in event.headers)
