"""The proxy of one sandbox."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from sandlock_policy.matching import canonical_address
from sandlock_proxy.admission import Origin
from sandlock_proxy.certificates import CertificateAuthority, ServingContext
from sandlock_proxy.credentials import Credentials
from sandlock_proxy.errors import ProxyError
from sandlock_proxy.events import HttpEvent
from sandlock_proxy.limits import Limits
from sandlock_proxy.rules import HttpRules
from sandlock_proxy.service import Asked, MayConnect, Resolve, Service, resolve_by_system
from sandlock_proxy.session import Session
from sandlock_proxy.stream import Stream

__all__ = ["Listening", "Proxy"]

_TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the type of the first record


@dataclass(frozen=True, slots=True, repr=False)
class Listening:
    """Where a listening proxy is; only requests that show `secret` are served."""

    address: str
    port: int
    secret: str

    @property
    def url(self) -> str:
        """What to set HTTP_PROXY to."""
        return f"http://sandlock:{self.secret}@{self.address}:{self.port}"

    def __repr__(self) -> str:
        return f"Listening({self.address}:{self.port})"


class Proxy:
    """Serves the intercepted connections of one sandbox.

    It has no port of its own: whoever intercepts a connection hands over its other end. Use it within one event loop.
    """

    def __init__(
        self,
        rules: HttpRules,
        *,
        credentials: Credentials | None = None,
        ca: CertificateAuthority | None = None,
        resolve: Resolve = resolve_by_system,
        may_connect: MayConnect | None = None,
        on_event: Callable[[HttpEvent], None] | None = None,
        limits: Limits | None = None,
        upstream_context: ssl.SSLContext | None = None,
        strip_overrides: bool = True,
    ) -> None:
        """Decide by `rules`, and attach `credentials` afterwards; without a `ca` TLS is refused.

        `resolve` gives the addresses that the program was told for a name: a request whose host does not lead to the
        address that it was sent to is refused. `may_connect` is asked about each address and port before a connection
        is made. `on_event` hears of each decision; if it raises, the request is not served. `upstream_context` verifies
        servers, by default with the system's store. `strip_overrides` drops headers that some servers take the method
        or the path from.
        """
        self._service = Service(
            rules=rules,
            credentials=credentials or Credentials(),
            ca=ca,
            resolve=resolve,
            may_connect=may_connect,
            on_event=on_event,
            limits=limits or Limits(),
            upstream_context=upstream_context,
            strip_overrides=strip_overrides,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._started = False
        self._listeners: list[socket.socket] = []

    @property
    def connections(self) -> int:
        """How many connections are being served."""
        return self._open

    async def start(self) -> None:
        """Take connections from now on."""
        self._started = True

    async def close(self) -> None:
        """End every connection at once and wait until they are gone."""
        self._started = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def adopt(self, connection: socket.socket, original_destination: tuple[str, int]) -> asyncio.Task[None]:
        """Serve a connection in a task of its own, which `close` ends."""
        return self._spawn(connection, Origin(_canonical(original_destination)))

    async def connection(self, connection: socket.socket, original_destination: tuple[str, int]) -> None:
        """Serve one intercepted connection until its end.

        `connection` is the proxy's end, a stream socket of any family, and belongs to the proxy from now on.
        `original_destination` is the address and port that the program connected to.
        """
        await self._serve(connection, Origin(_canonical(original_destination)))

    async def listen(self, address: str = "127.0.0.1", port: int = 0) -> Listening:
        """Also serve clients that know a proxy (HTTP_PROXY) and show the secret that is returned.

        Without an intercepted connection there is no original destination: the host of a request is resolved, and
        `may_connect` decides. CONNECT is refused, so this is for plain HTTP only.
        """
        listener = socket.create_server((address, port))
        listener.setblocking(False)
        self._listeners.append(listener)
        secret = secrets.token_urlsafe(24)
        self._track(asyncio.create_task(self._accept(listener, Origin(None, secret=secret))))
        return Listening(address, listener.getsockname()[1], secret)

    async def _accept(self, listener: socket.socket, origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            self._spawn(connection, origin)

    def _spawn(self, connection: socket.socket, origin: Origin) -> asyncio.Task[None]:
        return self._track(asyncio.create_task(self._serve(connection, origin)))

    def _track(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Forget a task; one that a fault of ours ended is reported now, not when somebody collects garbage."""
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            told = {"message": "a connection of the proxy ended by a fault", "exception": fault, "task": task}
            task.get_loop().call_exception_handler(told)

    async def _serve(self, connection: socket.socket, origin: Origin) -> None:
        service = self._service
        if not self._started or self._open >= service.limits.connections:
            connection.close()
            if not self._started:
                raise ProxyError("the proxy is not started, or closed")
            service.tell(Asked(), "refused", 503, f"there are {self._open} connections already")
            return
        self._open += 1
        try:
            connection.setblocking(False)
            try:
                stream, name = await self._open_stream(connection, origin)
            except BaseException:
                connection.close()
                raise
            if stream is None:
                connection.close()
                return
            await Session(service, stream, Origin(origin.destination, name, origin.secret)).serve()
        finally:
            self._open -= 1

    async def _open_stream(self, connection: socket.socket, origin: Origin) -> tuple[Stream | None, str | None]:
        """Return the stream of a connection, and the name of TLS if it is that; no stream if it ended or failed."""
        service = self._service
        first = await _peek(connection, service.limits.idle_s)
        if not first:
            return None, None
        context: ServingContext | None = None
        if first == _TLS_HANDSHAKE:
            if service.ca is None or origin.destination is None:
                service.tell(Asked(scheme="https"), "refused", 0, "TLS, and the proxy has no CA")
                return None, None
            context = service.ca.context(origin.destination[0])
        loop = asyncio.get_running_loop()
        try:
            transport, stream = await loop.connect_accepted_socket(
                lambda: Stream(service.limits),
                connection,
                ssl=context,
                ssl_handshake_timeout=service.limits.handshake_s if context else None,
                ssl_shutdown_timeout=1.0 if context else None,
            )
        except (ssl.SSLError, ConnectionError) as fault:
            reason = getattr(fault, "reason", None) or str(fault)
            service.tell(Asked(scheme="https"), "refused", 0, f"TLS with the program failed: {reason}")
            return None, None
        if context is None:
            return stream, None
        chosen = transport.get_extra_info("ssl_object").context
        return stream, chosen.served_name if isinstance(chosen, ServingContext) else None


def _canonical(destination: tuple[str, int]) -> tuple[str, int]:
    """Return the destination with its address in the form that hosts are compared in."""
    packed = canonical_address(destination[0])
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), destination[1]


async def _peek(connection: socket.socket, timeout_s: float) -> bytes:
    """Return the first byte that waits in a socket, leaving it there; empty if none comes or the peer is gone."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection.fileno(), wake)
    try:
        async with asyncio.timeout(timeout_s):
            await readable
        return connection.recv(1, socket.MSG_PEEK)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        loop.remove_reader(connection.fileno())
