"""One connection of a program, from its first request to its end."""

from __future__ import annotations

import asyncio
import contextlib

from sandlock_proxy.admission import Admission, Origin, Request
from sandlock_proxy.answers import write_answer
from sandlock_proxy.bodies import BodyError, chunk, chunked, sized
from sandlock_proxy.credentials import Attached
from sandlock_proxy.errors import Refusal, UnreachableError
from sandlock_proxy.events import Outcome
from sandlock_proxy.heads import Head, check_bytes, parse_head
from sandlock_proxy.masking import Mask
from sandlock_proxy.outgoing import write_request
from sandlock_proxy.relay import NoAnswerError, Relay
from sandlock_proxy.service import Asked, Service
from sandlock_proxy.stream import Stream, StreamLostError, StreamTimeoutError
from sandlock_proxy.upstream import Upstream

__all__ = ["Session"]

# RFC 9110, 9.2.2: may be sent again when a kept connection turns out to be closed.
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_MOST_DROPPED = 1024 * 1024


class Session:
    """Serves `client`, request after request, with one connection to a server at a time."""

    def __init__(self, service: Service, client: Stream, origin: Origin) -> None:
        """Judge by `service`; `origin` says what the program thinks it is connected to."""
        self._service = service
        self._limits = service.limits
        self._client = client
        self._origin = origin
        self._admission = Admission(service, origin)
        self._upstream: Upstream | None = None
        self._instead: dict[tuple[str, str], str] = {}  # (host, address where nobody answered) -> another one of its

    async def serve(self) -> None:
        """Serve until either side has enough; the connections are closed on return, whatever happened."""
        try:
            while await self._serve_one():
                pass
            await self._client.finish()
        except ConnectionError:
            # The client is gone, or an answer broke off: the client must see a broken connection, not an end.
            self._client.abort()
        finally:
            self._drop_upstream()
            if not self._client.transport.is_closing():
                self._client.abort()

    async def _serve_one(self) -> bool:
        """Serve one request; return whether another one may follow."""
        head: Head | None = None
        asked = Asked(scheme=self._origin.scheme)
        try:
            data = await self._read_head()
            if data is None:
                return False
            head = parse_head(data, self._limits)
            request = await self._admission.admit(head, asked)
            return await self._forward(request, asked)
        except Refusal as refusal:
            outcome: Outcome = "failed" if refusal.status >= 502 else "denied" if refusal.rule else "refused"
            asked.rule = "" if refusal.rule == "none" else refusal.rule or asked.rule
            self._service.tell(asked, outcome, refusal.status, refusal.reason)
            return await self._refuse(head, refusal)

    async def _read_head(self) -> bytes | None:
        """Return the next head with its empty line; None if the client ends or is idle for too long."""
        buffer = self._client.buffered
        if not buffer:
            try:
                if not await self._client.more(self._limits.idle_s):
                    return None
            except StreamTimeoutError:
                return None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.head_s
        searched = 0
        while (end := buffer.find(b"\r\n\r\n", searched)) < 0:
            check_bytes(buffer, self._limits)
            searched = max(0, len(buffer) - 3)
            try:
                if not await self._client.more(deadline - loop.time()):
                    return None
            except StreamTimeoutError:
                raise Refusal(408, f"the head took longer than {self._limits.head_s:g} s", close=True) from None
        return self._client.take(end + 4)

    async def _refuse(self, head: Head | None, refusal: Refusal) -> bool:
        close = refusal.close or head is None or head.has_body or not head.keeps_alive
        await self._client.write(write_answer(refusal, close=close, head_only=bool(head and head.method == "HEAD")))
        if close:
            await self._linger()
        return not close

    async def _linger(self) -> None:
        """Drop what the client still sends: closing on unread data would take the answer away from it."""
        dropped = len(self._client.take())
        with contextlib.suppress(TimeoutError, StreamTimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                while dropped < _MOST_DROPPED and (data := await self._client.read(self._limits.linger_s)):
                    dropped += len(data)

    async def _forward(self, request: Request, asked: Asked) -> bool:
        attached = self._service.credentials.attach(
            request.head.method, request.authority, request.target, (low for _, low, _ in request.head.headers)
        )
        self._service.tell(asked, "allowed")
        for first in (True, False):
            upstream = await self._connect(request)
            again = upstream.used and first and request.head.method in _REPEATABLE and not request.head.has_body
            try:
                return await self._exchange(request, upstream, attached, asked)
            except NoAnswerError as fault:
                self._drop_upstream()
                if not again:
                    raise Refusal(502, str(fault)) from None
        raise Refusal(502, "the server closed the connection twice without an answer")

    async def _connect(self, request: Request) -> Upstream:
        secure = self._origin.tls_name is not None
        host, port = request.authority.host, request.authority.port
        address = self._instead.get((host, request.address), request.address)
        if self._upstream is not None and self._upstream.serves((address, port, host if secure else "")):
            return self._upstream
        self._drop_upstream()
        context = self._service.tls if secure else None
        try:
            self._upstream = await Upstream.connect((address, port, host if secure else ""), self._limits, context)
        except UnreachableError as fault:
            for other in await self._admission.others(request.authority, address):
                with contextlib.suppress(UnreachableError):
                    self._upstream = await Upstream.connect(
                        (other, port, host if secure else ""), self._limits, context
                    )
                    self._instead[host, request.address] = other
                    return self._upstream
            raise fault from None
        return self._upstream

    async def _exchange(self, request: Request, upstream: Upstream, attached: Attached | None, asked: Asked) -> bool:
        """Send the request and pass the answer on, both at once; return whether another request may follow."""
        head = request.head
        service = self._service
        outgoing = write_request(
            request, self._origin.scheme, attached, self._limits, strip_overrides=service.strip_overrides
        )
        mask = Mask(attached.secrets, [value for _, value in attached.add]) if attached else None
        relay = Relay(self._client, upstream.stream, head, outgoing.parser, self._limits, mask)
        self._client.when_ended(upstream.stream.abort)
        sending: asyncio.Task[None] | None = None
        try:
            try:
                wire = outgoing.wire
                whole = head.length is not None and len(self._client.buffered) >= head.length
                if whole and head.length:
                    wire += self._client.take(head.length)
                await upstream.stream.write(wire)
            except StreamLostError:
                raise NoAnswerError("the server closed the connection") from None
            if not whole:
                sending = asyncio.create_task(self._send_body(head, upstream.stream))
            await relay.run()
        except (NoAnswerError, Refusal, ConnectionError) as fault:
            raise self._explain(fault, sending, relay, asked) from None
        finally:
            self._client.when_ended(None)
            if sending is not None and not sending.done():
                sending.cancel()
        sent = sending is None or (sending.done() and not sending.cancelled() and sending.exception() is None)
        upstream.used = True
        if not (relay.server_reusable and sent):
            self._drop_upstream()
        if not sent:
            await self._linger()
        return relay.client_reusable and sent

    def _explain(self, fault: Exception, sending: asyncio.Task[None] | None, relay: Relay, asked: Asked) -> Exception:
        """Return what to raise for a failed exchange: the first cause, in a form that fits how far it came."""
        self._drop_upstream()
        if self._client.ended:
            return StreamLostError("the client is gone")
        cause = sending.exception() if sending is not None and sending.done() and not sending.cancelled() else None
        if relay.started:
            self._service.tell(asked, "failed", 0, str(cause or fault))
            return StreamLostError("the answer broke off")
        if isinstance(cause, BodyError):
            return Refusal(400, f"the body of the request is broken: {cause}", close=True)
        if isinstance(cause, StreamTimeoutError):
            return Refusal(408, "the body of the request did not arrive", close=True)
        if isinstance(fault, NoAnswerError | Refusal):
            return fault
        return Refusal(502, str(fault))

    async def _send_body(self, head: Head, server: Stream) -> None:
        """Pass the body on in our own framing; a fault of the client's ends the request for the server too."""
        wait = self._limits.stall_s
        if head.length is None:
            pieces = chunked(self._client, head.parser, wait)
        else:
            pieces = sized(self._client, head.length, wait)
        try:
            async for piece, last in pieces:
                data = piece
                if head.length is None:
                    data = chunk(piece) + b"0\r\n\r\n" if last else chunk(piece)
                await server.write(data)
        except (BodyError, StreamTimeoutError):
            server.abort()
            raise

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
