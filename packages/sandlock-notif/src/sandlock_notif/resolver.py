"""The resolver of a sandbox: it answers for the names that rules speak of, and what it answers may be connected to.

The program is pointed to it by /etc/resolv.conf and speaks TCP to it; the connection is handed over by the supervisor,
so nobody else can ask. An answer counts for its TTL. Every other name does not exist: no query leaves the machine for
it, so nothing can be told to the world by looking names up (NET-24).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeAlias

from sandlock_notif.content.dns import AAAA, NO_ERROR, NO_NAME, SERVER_FAILURE, A, Question, parse_question, reply
from sandlock_notif.daemon_executor import DaemonExecutor
from sandlock_notif.events import Event, Sink, ignore

__all__ = ["LAUNCH_TTL_S", "REFRESH_S", "Lookup", "Names", "Resolver"]

_CONNECTIONS: Final = 64
_QUESTIONS_AT_ONCE: Final = 16
_IDLE_S: Final = 30.0
_ANSWER_S: Final = 8.0
_THREADS: Final = 4  # that wait in the system's resolver
REFRESH_S: Final = 60
"""The TTL of an answer of the system's resolver, which does not tell one."""
_TTL_S: Final = (5, 3600)  # shorter ones would end before the program connects, longer ones are no use

LAUNCH_TTL_S: Final = REFRESH_S + _TTL_S[0]
"""For how long what a name led to at the launch counts, where names are resolved again."""

Lookup: TypeAlias = Callable[[str], Awaitable[tuple[Collection[str], int]]]
"""Gives the addresses of a name and their TTL in seconds; raises OSError when it cannot tell."""


class Names(Protocol):
    """What the resolver needs of the rules."""

    def knows_name(self, name: str) -> bool:
        """Tell whether a rule speaks of `name`."""

    def learn(self, name: str, addresses: Iterable[str], ttl_s: float) -> tuple[str, ...]:
        """Take the addresses of `name` for a while, and return those that may be told."""


class _Lookup:
    """The lookup of one sandbox: by dnspython where it is installed, for its TTL, or else the system's resolver.

    The system's resolver may wait for half a minute for whoever a name belongs to. So it gets threads of this sandbox's
    own: names that nobody answers for hold up no other sandbox, and not the end of the host.
    """

    def __init__(self) -> None:
        self._pool: DaemonExecutor | None = None

    async def __call__(self, name: str) -> tuple[Collection[str], int]:
        return await _ask_by_dns(name) or await self._ask_system(name)

    async def _ask_system(self, name: str) -> tuple[Collection[str], int]:
        if self._pool is None:
            self._pool = DaemonExecutor(_THREADS, "sandlock-names")
        ask = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._pool, ask)
        return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)), REFRESH_S

    def close(self) -> None:
        """Ask nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


async def _ask_by_dns(name: str) -> tuple[Collection[str], int] | None:
    """Return what dnspython finds, or None: nothing, or it is not installed."""
    try:
        from dns.asyncresolver import resolve  # lazy, and optional: most sandboxes resolve nothing while they run
        from dns.exception import DNSException
    except ImportError:
        return None
    addresses: list[str] = []
    ttl_s = _TTL_S[1]
    for kind in ("A", "AAAA"):
        try:
            answer = await resolve(name, kind, lifetime=_ANSWER_S / 2, search=False)
        except DNSException:
            continue
        if answer.rrset is not None:
            ttl_s = min(ttl_s, answer.rrset.ttl)
            addresses += [record.to_text() for record in answer]
    return (addresses, ttl_s) if addresses else None


class Resolver:
    """Answers DNS queries of one sandbox, in the running loop.

    Arguments:
        names: the rules.
        lookup: how a name is resolved; None: as the host does it.
        sink: told which names were refused.

    """

    def __init__(self, names: Names, lookup: Lookup | None = None, sink: Sink = ignore) -> None:
        self._names = names
        self._system = _Lookup()
        self._lookup = lookup or self._system
        self.sink = sink
        self._tasks: set[asyncio.Task[None]] = set()
        self._room: asyncio.Semaphore | None = None

    def adopt(self, connection: socket.socket, destination: tuple[str, int]) -> None:
        """Serve a connection, whose other end a program connected to `destination`; it is closed in the end."""
        _ = destination
        if len(self._tasks) >= _CONNECTIONS:
            connection.close()
            return
        if self._room is None:
            self._room = asyncio.Semaphore(_QUESTIONS_AT_ONCE)
        task = asyncio.ensure_future(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._system.close()

    async def answer(self, question: Question) -> bytes:
        """Return the reply to one question, and let the rules know what it says."""
        if not self._names.knows_name(question.name):
            reason = f"the name {question.name} is not allowed: --net-allow {question.name}"
            detail = {"endpoint": question.name, "flag": f"--net-allow {question.name}"}
            self.sink(Event("denied", "connect", 0, 0, reason, detail))
            return reply(question, NO_NAME)
        if question.kind not in (A, AAAA):
            return reply(question, NO_ERROR)
        try:
            async with asyncio.timeout(_ANSWER_S):
                addresses, ttl_s = await self._lookup(question.name)
        except (OSError, TimeoutError, UnicodeError) as error:
            missing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            return reply(question, NO_NAME if missing else SERVER_FAILURE)
        ttl_s = min(max(ttl_s, _TTL_S[0]), _TTL_S[1])
        # The rules remember a little longer than the program is told to: it connects after it has asked.
        kept = self._names.learn(question.name, addresses, ttl_s + _TTL_S[0])
        return reply(question, NO_ERROR if kept else NO_NAME, kept, ttl_s)

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError, ValueError):
                while True:
                    async with asyncio.timeout(_IDLE_S):
                        size = int.from_bytes(await reader.readexactly(2), "big")  # RFC 1035, 4.2.2
                        question = parse_question(await reader.readexactly(size))
                    assert self._room is not None  # noqa: S101  # made by adopt
                    async with self._room:
                        message = await self.answer(question)
                    writer.write(len(message).to_bytes(2, "big") + message)
                    await writer.drain()
        finally:
            writer.close()
