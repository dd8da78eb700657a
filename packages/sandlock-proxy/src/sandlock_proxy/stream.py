"""One connection as bytes that arrive and bytes that leave, with back-pressure both ways and a time for every wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

from sandlock_proxy.limits import Limits

__all__ = ["Stream", "StreamLostError", "StreamTimeoutError"]


class _Room(threading.local):
    """Where all streams of a thread receive into, one after the other.

    A read that allocates 256 KiB for a request of 200 bytes spends most of its time on the allocation. Threads must
    not share it: two loops receive at the same time.
    """

    def __init__(self) -> None:
        self.view = memoryview(bytearray(256 * 1024))


_ROOM = _Room()


class StreamLostError(ConnectionError):
    """The other side is gone."""


class StreamTimeoutError(ConnectionError):
    """Nothing moved for the time that was given."""


class Stream(asyncio.BufferedProtocol):
    """A transport's protocol. One task reads, one may write; reading stops while `limits.buffer_bytes` wait."""

    def __init__(self, limits: Limits) -> None:
        """Hold no more than `limits` say."""
        self._limits = limits
        self._buffer = bytearray()
        self._room = _ROOM.view
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._deadline = 0.0  # of the wait that `_reader` is
        self._timer: asyncio.TimerHandle | None = None
        self._held = False  # the transport was told to stop reading
        self._full = False  # the transport told us to stop writing
        self._ended = False
        self._lost = False
        self._on_end: Callable[[], None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; called again when TLS has replaced it."""
        self._transport = cast("asyncio.Transport", transport)  # the loop gives stream protocols no other kind
        self._transport.set_write_buffer_limits(high=self._limits.buffer_bytes)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the room that all streams receive into: it is emptied before anyone else can fill it."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Keep what came."""
        self._buffer += self._room[:nbytes]
        if len(self._buffer) >= self._limits.buffer_bytes and not self._held and self._transport:
            self._held = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        """Note the end; the transport closes itself, since neither side has a use for half of a connection."""
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, both ways."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._end()
        _wake(self._writer)

    def pause_writing(self) -> None:
        """Note that the other side is slower than we are."""
        self._full = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self._full = False
        _wake(self._writer)

    # What the proxy calls.

    @property
    def transport(self) -> asyncio.Transport:
        """The transport; there is one as soon as anything can be done with the stream."""
        if self._transport is None:
            raise StreamLostError("the connection was never made")
        return self._transport

    @property
    def ended(self) -> bool:
        """Tell whether nothing more will come."""
        return self._ended

    @property
    def buffered(self) -> bytearray:
        """What has arrived and was not taken; look, and take with `take`."""
        return self._buffer

    def when_ended(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once nothing more comes, at once if that is so already; None forgets it."""
        self._on_end = callback
        if callback is not None and self._ended:
            callback()

    def take(self, most: int | None = None) -> bytes:
        """Return what has arrived, at most `most` bytes of it."""
        if most is None or most >= len(self._buffer):
            data = bytes(self._buffer)
            self._buffer.clear()
        else:
            data = bytes(memoryview(self._buffer)[:most])
            del self._buffer[:most]
        if self._held and len(self._buffer) < self._limits.buffer_bytes // 2:
            self._held = False
            if not self._ended:
                self.transport.resume_reading()
        return data

    def put_back(self, data: bytes) -> None:
        """Let `data` be the next that is taken."""
        self._buffer[:0] = data

    async def more(self, timeout_s: float) -> bool:
        """Wait until more has arrived than there is, and return True; False at the end.

        Raises StreamTimeoutError after `timeout_s` seconds.
        """
        if self._ended:
            return False
        size = len(self._buffer)
        self._reader = self._loop.create_future()
        self._deadline = self._loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()
        try:
            await self._reader
        finally:
            self._reader = None
        return len(self._buffer) > size

    async def read(self, timeout_s: float, most: int | None = None) -> bytes:
        """Return what has arrived, waiting for the first byte; empty at the end."""
        if not self._buffer and not await self.more(timeout_s):
            return b""
        return self.take(most)

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the other side is slow; raises StreamLostError or StreamTimeoutError."""
        if self._lost or self.transport.is_closing():
            raise StreamLostError("the other side is gone")
        self.transport.write(data)
        if self._full:
            await self._wait_to_write()
            if self._lost:
                raise StreamLostError("the other side is gone")

    async def finish(self) -> None:
        """Send what is under way, then close; raises StreamTimeoutError if the other side does not take it."""
        self.transport.close()
        while not self._lost:
            await self._wait_to_write()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _set_timer(self) -> None:
        """Look again when the time of the current wait is over.

        Most waits end long before, and the next one begins: the timer stays and finds a later deadline, which is
        cheaper than to set and cancel one for every read.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look_at_time)

    def _look_at_time(self) -> None:
        self._timer = None
        if self._reader is None:
            return
        if self._loop.time() >= self._deadline:
            _expire(self._reader)
        else:
            self._set_timer()

    async def _wait_to_write(self) -> None:
        """Wait until the transport wants more, or is gone."""
        self._writer = self._loop.create_future()
        timer = self._loop.call_later(self._limits.stall_s, _expire, self._writer)
        try:
            await self._writer
        finally:
            self._writer = None
            timer.cancel()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        _wake(self._reader)
        callback, self._on_end = self._on_end, None
        if callback is not None:
            callback()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(StreamTimeoutError("nothing moved in time"))
