"""Bodies as they pass: of a known length, chunked, or until the end of the connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

import h11

from sandlock_proxy.stream import Stream

__all__ = ["BodyError", "Pieces", "chunk", "chunked", "sized", "until_end"]

# Data, and whether it is the last of the body.
Pieces = AsyncIterator[tuple[bytes, bool]]

_PIECE = 256 * 1024


class BodyError(ConnectionError):
    """A body ended early, or is not what its framing says."""


async def sized(stream: Stream, length: int, timeout_s: float) -> Pieces:
    """Yield the next `length` bytes of `stream` as they come; raises BodyError if it ends before."""
    while length:
        data = await stream.read(timeout_s, min(length, _PIECE))
        if not data:
            raise BodyError(f"the body ended {length} bytes early")
        length -= len(data)
        yield data, not length


async def until_end(stream: Stream, timeout_s: float) -> Pieces:
    """Yield everything that `stream` still brings."""
    while data := await stream.read(timeout_s, _PIECE):
        yield data, False
    yield b"", True


async def chunked(stream: Stream, parser: h11.Connection, timeout_s: float) -> Pieces:
    """Yield the content of a chunked body, whose head `parser` has read; what is behind it stays in `stream`.

    Extensions and trailers are dropped: no rule looks at them. Raises BodyError for what is not chunks.
    """
    if stream.buffered:
        _feed(parser, stream.take())
    parts: list[bytes] = []
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as fault:
            if parts:
                yield b"".join(parts), False
            raise BodyError(f"the chunks are broken: {fault}") from None
        if event is h11.NEED_DATA:
            if parts:
                yield b"".join(parts), False
                parts.clear()
            data = await stream.read(timeout_s, _PIECE)
            if not data:
                raise BodyError("the body ended before its last chunk")
            _feed(parser, data)
        elif isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            stream.put_back(parser.trailing_data[0])
            yield b"".join(parts), True
            return
        else:
            raise BodyError("the body ended with its connection")


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk; nothing for no data, since an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _feed(parser: h11.Connection, data: bytes) -> None:
    try:
        parser.receive_data(data)
    except h11.RemoteProtocolError as fault:
        raise BodyError(f"the chunks are broken: {fault}") from None
