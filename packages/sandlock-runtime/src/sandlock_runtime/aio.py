"""Sandboxes from asyncio: nothing here blocks the caller's loop, and a cancelled wait ends the whole tree."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock_runtime.result import Reason
from sandlock_runtime.streams import DEVNULL, INHERIT, PIPE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from sandlock_runtime.life import Life
    from sandlock_runtime.process import Process
    from sandlock_runtime.result import Result
    from sandlock_runtime.streams import Stream

__all__ = ["AsyncProcess", "arun", "aspawn"]

_CHUNK = 1 << 16  # a pipe's default capacity
_LIMIT = 1 << 16  # bytes that a stream reads ahead before the program has to wait


class AsyncProcess:
    """A confined program that runs, with asyncio streams.

    Attributes:
        pid: process id of the program, for messages.
        stdin: a `StreamWriter` where it is a pipe, else None.
        stdout: a `StreamReader` where it is a pipe, else None.
        stderr: likewise.

    """

    def __init__(self, process: Process, life: Life) -> None:
        self._process = process
        self._life = life
        self._end: asyncio.Task[Result] | None = None
        self.pid = process.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._transports: list[asyncio.BaseTransport] = []

    async def connect(self) -> None:
        """Make streams of the pipes."""
        self.stdin = await self._writer(self._life.streams.take(0))
        self.stdout = await self._reader(self._life.streams.take(1))
        self.stderr = await self._reader(self._life.streams.take(2))

    async def wait(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109  # as in Process
        """Wait until nothing of the sandbox is left, and return the result; several tasks may wait.

        Read the streams meanwhile where the program writes more than a pipe and the reader hold (128 KiB).

        Raises:
            TimeoutError: `timeout` seconds passed; the program runs on.

        """
        if self._end is None:
            self._end = asyncio.ensure_future(self._finish())
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self._end)

    async def ports(self) -> dict[int, int]:
        """Return the ports that the program has bound now, and the real one of each; see `Sandbox.ports`."""
        return await asyncio.to_thread(self._process.ports)

    def kill(self) -> None:
        """Kill every process of the sandbox; no error when it has ended."""
        self._life.kill()

    def terminate(self) -> None:
        """Send SIGTERM to the program."""
        self._process.terminate()

    def send_signal(self, number: int) -> None:
        """Send signal `number` to the program; no error when it has ended."""
        self._process.send_signal(number)

    async def __aenter__(self) -> Self:
        """Return the process itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what is left and free everything."""
        await self.close()

    async def close(self) -> None:
        """Kill what is left and free everything, the streams too; as `Process.close`."""
        self._life.close()
        try:
            await self.wait()
        finally:
            for transport in self._transports:
                transport.close()

    async def _finish(self) -> Result:
        await _ended(self._life)
        # The rest may take its time, a branch to be committed for one, so it is not the loop's.
        return await asyncio.to_thread(self._process.wait)

    async def _reader(self, fd: int) -> asyncio.StreamReader | None:
        if fd < 0:
            return None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_LIMIT)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
        )
        self._transports.append(transport)
        return reader

    async def _writer(self, fd: int) -> asyncio.StreamWriter | None:
        if fd < 0:
            return None
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", buffering=0)
        )
        self._transports.append(transport)
        return asyncio.StreamWriter(transport, protocol, None, loop)


async def aspawn(
    start: Callable[[Stream, Stream, Stream], tuple[Process, Life]],
    stdin: Stream = INHERIT,
    stdout: Stream = INHERIT,
    stderr: Stream = INHERIT,
) -> AsyncProcess:
    """Start a program by `start`, which launches with three streams and may block, and connect its pipes."""
    process, life = await _uncancelled(start, stdin, stdout, stderr)
    handle = AsyncProcess(process, life)
    try:
        await handle.connect()
    except BaseException:
        life.kill()
        await asyncio.shield(handle.close())
        raise
    return handle


async def arun(
    start: Callable[[Stream, Stream, Stream], tuple[Process, Life]],
    timeout_s: float | None,
    grace_s: float,
    feed: bytes | None,
    max_output: int | None,
) -> Result:
    """Run a program to its end: feed it, keep its output up to a bound, end the tree when the time is over.

    Cancelling the wait kills the tree before the cancellation goes on.
    """
    process, life = await _uncancelled(start, PIPE if feed is not None else DEVNULL, PIPE, PIPE)
    fds = [life.streams.take(number) for number in range(3)]
    sinks = [_Output(fd, max_output) for fd in fds[1:]]
    feeding = asyncio.ensure_future(_feed(fds[0], feed or b""))
    try:
        await _bounded(life, timeout_s, grace_s)
    finally:
        if not life.ended:
            life.kill()
            await asyncio.shield(_ended(life))
        feeding.cancel()
        await asyncio.wait([feeding])
        for sink in sinks:
            sink.finish()
        result = await asyncio.shield(asyncio.to_thread(process.wait))
    out, err = sinks
    complete: Result = result.__replace__(  # type: ignore[attr-defined]  # dataclasses have it from 3.13
        stdout=out.content(), stderr=err.content(), stdout_dropped=out.dropped, stderr_dropped=err.dropped
    )
    return complete


async def _uncancelled(
    start: Callable[[Stream, Stream, Stream], tuple[Process, Life]], *streams: Stream
) -> tuple[Process, Life]:
    """Launch in a thread; a cancellation meanwhile ends what was launched."""
    launching = asyncio.ensure_future(asyncio.to_thread(start, streams[0], streams[1], streams[2]))
    try:
        return await asyncio.shield(launching)
    except asyncio.CancelledError:
        with suppress(Exception):  # a launch that failed leaves nothing
            process, _ = await launching
            await asyncio.to_thread(process.close)
        raise


async def _bounded(life: Life, timeout_s: float | None, grace_s: float) -> None:
    ended = asyncio.ensure_future(_ended(life))
    try:
        if await _within(ended, timeout_s):
            return
        if grace_s > 0:
            life.expire()
            if await _within(ended, grace_s):
                return
        life.kill(Reason.TIMEOUT)
        await ended
    finally:
        ended.cancel()


async def _within(task: asyncio.Task[None], seconds: float | None) -> bool:
    done, _ = await asyncio.wait([task], timeout=seconds)
    return bool(done)


async def _ended(life: Life) -> None:
    """Wait until nothing of the sandbox is left."""
    loop = asyncio.get_running_loop()
    if life.ended:
        return
    ended = asyncio.Event()
    watched = os.dup(life.fileno())  # several may wait, and a loop knows one callback per fd
    loop.add_reader(watched, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


async def _feed(fd: int, data: bytes) -> None:
    """Write `data` to the program and close its input; what it does not read any more is dropped."""
    if fd < 0:
        return
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        writer.write(data)
        with suppress(BrokenPipeError, ConnectionResetError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    finally:
        if not transport.is_closing():
            transport.abort()


class _Output:
    """What a program writes to one pipe, up to a bound; the rest is counted and dropped."""

    def __init__(self, fd: int, bound: int | None) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._room = -1 if bound is None else bound
        self._chunks: list[bytes] = []
        self.dropped = 0
        asyncio.get_running_loop().add_reader(fd, self._read)

    def content(self) -> bytes:
        """Return what was kept."""
        return b"".join(self._chunks)

    def finish(self) -> None:
        """Take what is there without waiting for a writer outside, and close."""
        while self._read():
            continue
        self._close()

    def _read(self) -> bool:
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close()
            return False
        if self._room >= 0:
            self.dropped += max(len(data) - self._room, 0)
            data = data[: self._room]
            self._room -= len(data)
        if data:
            self._chunks.append(data)
        return True

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
