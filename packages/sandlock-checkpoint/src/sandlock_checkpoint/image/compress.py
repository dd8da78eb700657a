"""Blocks of page contents compressed with zstd, one frame each: in any order, in any thread, within known bounds."""

from __future__ import annotations

from types import ModuleType

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.format import BLOCK

__all__ = ["LEVEL", "Compressor", "Decompressor", "most_stored"]

LEVEL = 1  # memory is compressed while its process waits


def most_stored(size: int) -> int:
    """Return the most bytes that the frame of a block of `size` bytes may have (ZSTD_compressBound, rounded up)."""
    return size + (size >> 8) + 1024


class Compressor:
    """Compresses blocks; one object for each thread."""

    def __init__(self, level: int = LEVEL) -> None:
        """Raises ImageError when the package zstandard is missing."""
        self._zstd = _library("written").ZstdCompressor(level=level, write_content_size=True, threads=0)

    def compress(self, data: memoryview) -> bytes:
        """Return `data` as one frame."""
        frame: bytes = self._zstd.compress(data)
        return frame


class Decompressor:
    """Decompresses blocks; one object for each thread."""

    def __init__(self) -> None:
        """Raises ImageError when the package zstandard is missing."""
        library = _library("read")
        self._library = library
        self._zstd = library.ZstdDecompressor(max_window_size=2 * BLOCK)

    def decompress(self, frame: bytes, size: int) -> bytes:
        """Return the `size` bytes that `frame` must hold.

        Raises:
            ValueError: it is damaged, holds another number of bytes, or there is something behind it.

        """
        # The size is compared before a byte is decompressed, and the whole frame is decompressed in one call into
        # memory of that size: a frame whose blocks expand to more fails there, where a stream would go on growing.
        try:
            if self._library.frame_content_size(frame) != size:
                raise ValueError(f"the frame does not hold {size} bytes")
            data: bytes = self._zstd.decompress(frame, allow_extra_data=False)
        except self._library.ZstdError as error:
            raise ValueError(str(error)) from None
        if len(data) != size:
            raise ValueError(f"the frame does not hold {size} bytes")
        return data


def _library(verb: str) -> ModuleType:
    try:
        import zstandard  # optional, and only compressed images need it
    except ImportError:
        raise ImageError(
            "meta.json", "compression", f"zstd images are {verb} with the package zstandard: "
            "pip install 'sandlock-checkpoint[zstd]'"
        ) from None  # fmt: skip
    library: ModuleType = zstandard
    return library
