"""One layer as a stream: decompressed, counted, and compared with both of its digests."""

from __future__ import annotations

import hashlib
from functools import partial

from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.layout import split_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from sandlock_runtime.images.layout import Blob

    class Readable(Protocol):
        """What is read in pieces."""

        def read(self, size: int) -> bytes: ...


__all__ = ["COMPRESSIONS", "LayerStream", "check_compression"]

# media type without its prefix -> compression (image-spec, layer.md; Docker's are read by everybody)
_PREFIXES = (
    "application/vnd.oci.image.layer.v1.",
    "application/vnd.oci.image.layer.nondistributable.v1.",
    "application/vnd.docker.image.rootfs.diff.",
    "application/vnd.docker.image.rootfs.foreign.diff.",
)
COMPRESSIONS = {"tar": "", "tar+gzip": "gzip", "tar.gzip": "gzip", "tar+zstd": "zstd", "tar.zstd": "zstd"}
_CHUNK = 1 << 18
_PIECE = 1 << 15  # read at once of what is compressed: what follows a member in it is copied
_WINDOW = 1 << 27  # bytes of memory that a zstd frame may ask for: `zstd --long` at its default
_LEAST, _RATIO, _MOST = 1 << 30, 64, 1 << 36  # no layer that somebody uses has been squeezed to a 64th


def check_compression(media_type: str) -> str:
    """Return how layers of `media_type` are compressed, "" for not at all; OciImageError for what is not read here."""
    for prefix in _PREFIXES:
        compression = COMPRESSIONS.get(media_type.removeprefix(prefix))
        if compression is not None and media_type.startswith(prefix):
            if compression == "zstd":
                _zstandard()
            return compression
    raise OciImageError(f"a layer is of the type {media_type[:100]!r}, which is not known here")


def _zstandard() -> Any:
    try:
        import zstandard  # lazy, and an extra: most layers are gzip
    except ImportError as error:
        remedy = "pip install 'sandlock-runtime[zstd]', or copy the image with gzip layers"
        raise OciImageError("its layers are compressed with zstd, which needs the package zstandard", remedy) from error
    return zstandard


class LayerStream:
    """The archive in a layer, read once, forwards.

    Arguments:
        blob: the layer as it is stored.
        media_type: of it.
        diff_id: the digest of the archive.

    """

    def __init__(self, blob: Blob, size: int, media_type: str, diff_id: str) -> None:
        self._blob = blob
        self._plain = _decompressed(blob, check_compression(media_type))
        algorithm, self._digits = split_digest(diff_id)
        self._hash = hashlib.new(algorithm)
        self._bound = min(max(_LEAST, _RATIO * size), _MOST)
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end only."""
        pieces = []
        left = size
        while left > 0 and (piece := self._piece(min(left, _CHUNK))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        try:
            data = self._plain.read(size)
        except (OSError, EOFError, ValueError) as error:  # gzip: BadGzipFile is an OSError, zlib.error a ValueError
            raise OciImageError(f"a layer cannot be decompressed: {error}", "it is damaged: get it again") from error
        except Exception as error:
            if type(error).__name__ not in ("ZstdError", "error"):  # zlib.error; neither is imported for its name
                raise
            raise OciImageError(f"a layer cannot be decompressed: {error}", "it is damaged: get it again") from error
        self._hash.update(data)
        self._at += len(data)
        if self._at > self._bound:
            reason = f"a layer unpacks to more than {self._bound} bytes, {_RATIO} times its size and more than 1 GiB"
            raise OciImageError(reason, "nobody needs such a layer but to fill a disk")
        return data

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self._at

    def seek(self, at: int) -> None:
        """Go forward to `at`."""
        if at < self._at:
            raise OciImageError("a layer's archive points back into itself")
        while self._at < at and self._piece(min(at - self._at, _CHUNK)):
            pass

    def finish(self) -> None:
        """Read the rest, and raise OciImageError where either digest is another."""
        while self._piece(_CHUNK):
            pass
        self._blob.finish()
        if self._hash.hexdigest() != self._digits:
            raise OciImageError("the content of a layer is not what the image's configuration says it is")


class _Gzip:
    """The content of gzip members, one behind the other.

    The module `gzip` reads the name in a member's header byte by byte, however long it is.
    """

    def __init__(self, source: Readable) -> None:
        from zlib import decompressobj  # lazy: a cached image needs none

        self._member = partial(decompressobj, wbits=16 + 15)  # zlib.h: a gzip header, the largest window
        self._source = source
        self._waiting = b""
        self._inside: Any = None

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, b"" at the end."""
        while True:
            self._waiting = self._waiting or self._source.read(_PIECE)
            ended = not self._waiting
            if self._inside is None:
                self._waiting = self._waiting.lstrip(b"\0")  # padding, as the module takes it
                if ended:
                    return b""
                if not self._waiting:
                    continue
                self._inside = self._member()
            inside = self._inside
            data: bytes = inside.decompress(self._waiting, size)  # at the end too: it may hold some back
            self._waiting = inside.unused_data if inside.eof else inside.unconsumed_tail
            if inside.eof:
                self._inside = None
            elif ended and not data:
                raise EOFError("it ends in the middle")
            if data:
                return data


def _decompressed(blob: Blob, compression: str) -> Readable:
    source: Any = blob  # it reads, and does nothing else; nothing else is asked of it here
    reader: Readable = blob
    if compression == "gzip":
        reader = _Gzip(blob)
    elif compression == "zstd":
        decompressor = _zstandard().ZstdDecompressor(max_window_size=_WINDOW)
        reader = decompressor.stream_reader(source, read_across_frames=True, closefd=False)
    return reader
