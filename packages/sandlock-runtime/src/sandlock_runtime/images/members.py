"""Reading the headers of a hostile tar archive: each is bounded before memory is taken for it."""

from __future__ import annotations

import tarfile

from sandlock_runtime.images.errors import OciImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    class Source(Protocol):
        """Where an archive is read from."""

        def read(self, size: int) -> bytes: ...
        def tell(self) -> int: ...
        def seek(self, at: int) -> None: ...


__all__ = ["members"]

_LARGEST = 1 << 20  # bytes of one extended header; names have 4096 at most
_BLOCK = 512


class _Guarded:
    """What `tarfile` reads headers from. It believes every length that it finds in them, so this does not."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST:
            raise OciImageError(f"the archive has a header of {size} bytes")
        self.last = self._source.read(size)
        return self.last

    def tell(self) -> int:
        return self._source.tell()

    def seek(self, at: int) -> None:
        self._source.seek(at)


def members(source: Source) -> Iterator[tarfile.TarInfo]:
    """Go through the members of the archive at `source`, whose content may be read from it, forwards, in between.

    Raises:
        OciImageError: it is none, or is damaged; `tarfile` would take most damage for its end.

    """
    guarded: Any = _Guarded(source)
    try:
        archive: Any = tarfile.TarFile(fileobj=guarded, mode="r", encoding="utf-8", errors="surrogateescape")
        while (member := archive.next()) is not None:
            archive.members.clear()  # it would keep them all
            yield member
    # Its parser lets through what int(), struct and deep recursion raise for nonsense; all of it means the same here.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, LookupError, EOFError) as error:
        raise OciImageError(
            f"its archive cannot be read: {error}", "it is damaged, or made by something odd"
        ) from error
    if guarded.last.strip(b"\0"):
        raise OciImageError("its archive ends in a header that cannot be read", "it is damaged")
