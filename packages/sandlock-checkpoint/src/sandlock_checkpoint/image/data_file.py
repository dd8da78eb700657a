"""One data file of a loaded image: its blocks, read and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from errno import ENXIO
from itertools import accumulate

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.compress import Decompressor
from sandlock_checkpoint.image.folder import ImageFolder
from sandlock_checkpoint.image.format import BLOCK, SPARSE
from sandlock_checkpoint.image.layout import Stream, subtract
from sandlock_checkpoint.memory import Run

__all__ = ["DataFile", "read_exactly"]


class DataFile:
    """Page contents of one area in one image.

    Attributes:
        name: path in the image.
        stream: of the runs in it.
        fd: of the file, -1 while it is closed.

    """

    def __init__(
        self,
        folder: ImageFolder,
        name: str,
        size: int,
        runs: Sequence[Run],
        layout: str,
        blocks: Sequence[str],
        stored: Sequence[int],
    ) -> None:
        self.name = name
        self.stream = Stream(runs)
        self._runs = runs
        self.fd = -1
        self._folder = folder
        self._size = size
        self._layout = layout
        self._digests = bytes.fromhex("".join(blocks))
        self._offsets = [0, *accumulate(stored)] if stored else []
        self._kept: tuple[int, bytes] = (-1, b"")

    @property
    def compressed(self) -> bool:
        """Whether its blocks are zstd frames."""
        return bool(self._offsets)

    def open(self) -> int:
        """Return the fd, which stays this object's; opened again, it must still be the file it was.

        Raises:
            ImageError: as `ImageFolder.open_file`.

        """
        if self.fd < 0:
            self.fd, _ = self._folder.open_file(self.name, self._size)
        return self.fd

    def close(self) -> None:
        """Close the file; it may be opened again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def position(self, run: Run) -> int:
        """Return where in the file the bytes of `run` stand in one piece, -1 if they do not."""
        start = self.stream.find(run)
        if start < 0 or self.compressed:
            return -1
        return run.offset if self._layout == SPARSE else start

    def read_block(self, block: int, into: memoryview) -> None:
        """Fill `into`, as long as the block, and check its digest. The file is open. Safe in any thread.

        Raises:
            ImageError: the file is short, or the bytes are not those that were saved.

        """
        if self._offsets:
            start, end = self._offsets[block : block + 2]
            frame = bytearray(end - start)
            read_exactly(self.fd, memoryview(frame), start, self.name)
            try:
                into[:] = Decompressor().decompress(bytes(frame), len(into))
            except ValueError as error:
                raise ImageError(self.name, f"blocks[{block}]", str(error)) from None
        else:
            self.read_unchecked(block * BLOCK, into)
        if hashlib.sha256(into).digest() != self._digests[32 * block : 32 * block + 32]:
            raise ImageError(self.name, f"blocks[{block}]", "its checksum does not fit")

    def read_part(self, start: int, into: memoryview) -> None:
        """Fill `into` with bytes of one block, `start` bytes into the stream; the block is read and checked whole."""
        block = start // BLOCK
        if self._kept[0] != block:
            data = bytearray(self.stream.block_size(block))
            self.read_block(block, memoryview(data))
            self._kept = (block, bytes(data))
        skip = start - block * BLOCK
        into[:] = memoryview(self._kept[1])[skip : skip + len(into)]

    def read_unchecked(self, start: int, into: memoryview) -> None:
        """Fill `into` with bytes of the stream of a file that is not compressed, without a look at their digest."""
        if self._layout != SPARSE:
            read_exactly(self.fd, into, start, self.name)
            return
        done = 0
        for offset, length in self.stream.pieces(start, len(into)):
            read_exactly(self.fd, into[done : done + length], offset, self.name)
            done += length

    def check_gaps(self) -> None:
        """Refuse what stands between the runs, where nothing was saved and nothing is read.

        Raises:
            ImageError: something does.

        """
        if self._layout != SPARSE:
            return
        was_open = self.fd >= 0
        fd = self.open()
        try:
            for offset, length in subtract([Run(0, self._size)], self._runs):
                for at in _data(fd, offset, offset + length):
                    if any(os.pread(fd, min(BLOCK, offset + length - at), at)):
                        raise ImageError(self.name, "", f"has contents behind {at}, where nothing was saved")
        finally:
            if not was_open:
                self.close()

    def forget(self) -> None:
        """Drop the block that `read_part` keeps."""
        self._kept = (-1, b"")


def _data(fd: int, start: int, end: int) -> Iterator[int]:
    """Yield where blocks of a part of a file begin that are no holes."""
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:  # a hole up to the end
                return
            raise
        if start < end:
            yield start
        start += BLOCK


def read_exactly(fd: int, into: memoryview, offset: int, name: str) -> None:
    """Fill `into` from `offset` of the file.

    Raises:
        ImageError: the file ends before.

    """
    while into:
        count = os.preadv(fd, [into], offset)
        if not count:
            raise ImageError(name, "", f"ends at {offset}, {len(into)} bytes early")
        into = into[count:]
        offset += count
