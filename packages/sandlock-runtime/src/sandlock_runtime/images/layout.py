"""Where an image's bytes are: a folder or an archive in the OCI image layout (image-spec, image-layout.md).

Whoever made it is not trusted: a blob is a plain file of the size that was promised, it is read to its end, and it
counts only when its digest is what names it.
"""

from __future__ import annotations

import hashlib
import os
import re
from stat import S_ISREG

from sandlock_policy.record import record
from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.members import members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["Blob", "Descriptor", "Layout", "split_digest"]

_DIGESTS = {"sha256": 64, "sha512": 128}  # algorithm -> hexadecimal digits; what image-spec, descriptor.md registers
_DIGEST = re.compile(r"(sha256|sha512):([0-9a-f]+)")
_MOST_JSON = 4 << 20  # what registries accept as a manifest
_MOST_NAMES = 100_000  # in an archive, which has two for each blob at most
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a FIFO would hold us up, and a link lead away


@record(frozen=True, slots=True)
class Descriptor:
    """What one thing of an image is said to be: type, digest, size; and its platform and tag, "" where none is said."""

    media_type: str
    digest: str
    size: int
    os: str = ""
    architecture: str = ""
    tag: str = ""

    @property
    def path(self) -> str:
        """The name of its file in the layout."""
        algorithm, digits = split_digest(self.digest)
        return f"blobs/{algorithm}/{digits}"


def split_digest(text: str) -> tuple[str, str]:
    """Return algorithm and digits; a digest that is anything else could name any file."""
    found = _DIGEST.fullmatch(text)
    if found is None or len(found[2]) != _DIGESTS[found[1]]:
        raise OciImageError(f"{text[:100]!r} is not a digest that is known here", "sha256 and sha512 are")
    return found[1], found[2]


class _Owner:
    """Owns an fd; `with` closes it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


class Blob(_Owner):
    """Bytes of the image, read from their beginning, and compared with their digest at their end. Owns its fd."""

    def __init__(self, fd: int, start: int, descriptor: Descriptor) -> None:
        super().__init__(fd)
        self._start = start
        self._descriptor = descriptor
        self._hash = hashlib.new(split_digest(descriptor.digest)[0])
        self.done = 0
        self.on_read: Callable[[int], None] | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, b"" at the end."""
        left = self._descriptor.size - self.done
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._start + self.done)
        self.done += len(data)
        self._hash.update(data)
        if self.on_read is not None:
            self.on_read(len(data))
        return data

    def finish(self) -> None:
        """Read the rest; OciImageError where the whole has another digest."""
        while self.read(1 << 20):
            pass
        if self.done != self._descriptor.size or self._hash.hexdigest() != split_digest(self._descriptor.digest)[1]:
            reason = f"the content of {self._descriptor.path} is not what its digest says"
            raise OciImageError(reason, "it is damaged or was changed: get it again")


class Layout(_Owner):
    """An open image layout, a folder's or an archive's; `with` closes it.

    Raises:
        OciImageError: there is none, or it is of another kind.

    """

    def __init__(self, path: str, *, archive: bool) -> None:
        self._names: dict[str, tuple[int, int]] | None = None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if archive else os.O_DIRECTORY)
        try:
            super().__init__(os.open(path, flags))
        except OSError as error:
            kind = "an archive (oci-archive:FILE)" if archive else "a folder (oci:DIR)"
            raise OciImageError(f"{path}: {(error.strerror or '').lower()}", f"name {kind} that is there") from error
        try:
            if archive:
                self._names = _names_of(self._fd, path)
            version = self.small("oci-layout", 1 << 10)
        except BaseException:
            os.close(self._fd)
            raise
        if b'"1.' not in version:
            os.close(self._fd)
            raise OciImageError(f"{path}: is no image layout of version 1")

    def small(self, name: str, most: int = _MOST_JSON) -> bytes:
        """Return the content of a small file that has no digest."""
        fd, start, size = self._open(name)
        try:
            if size > most:
                raise OciImageError(f"{name} has {size} bytes, and {most} are the most")
            return os.pread(fd, size, start)
        finally:
            os.close(fd)

    def document(self, descriptor: Descriptor) -> bytes:
        """Return the content of a small blob, checked."""
        if descriptor.size > _MOST_JSON:
            raise OciImageError(f"{descriptor.path} has {descriptor.size} bytes, and {_MOST_JSON} are the most")
        with self.blob(descriptor) as blob:
            content = blob.read()
            blob.finish()
            return content

    def blob(self, descriptor: Descriptor) -> Blob:
        """Open a blob; whoever reads it calls `finish` before anything of it counts."""
        fd, start, size = self._open(descriptor.path)
        if size != descriptor.size:
            os.close(fd)
            raise OciImageError(f"{descriptor.path} has {size} bytes, and not the {descriptor.size} that it should")
        return Blob(fd, start, descriptor)

    def _open(self, name: str) -> tuple[int, int, int]:
        """Return an fd, the caller's, and where in it the file `name` begins and how long it is."""
        if self._names is not None:
            if name not in self._names:
                raise OciImageError(f"it has no {name}", "it is incomplete, or no image layout")
            return os.dup(self._fd), *self._names[name]
        try:
            fd = os.open(name, _FILE, dir_fd=self._fd)
        except OSError as error:
            reason = f"its {name} cannot be opened: {(error.strerror or '').lower()}"
            raise OciImageError(reason, "it is incomplete, or no image layout") from error
        found = os.fstat(fd)
        if not S_ISREG(found.st_mode):
            os.close(fd)
            raise OciImageError(f"its {name} is no file")
        return fd, 0, found.st_size


class _Whole:
    """A file as the archive's reader wants it: bytes at a position. Reads of headers are bounded by `members`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> None:
        self._at = at


def _names_of(fd: int, path: str) -> dict[str, tuple[int, int]]:
    """Return name -> (offset, size) of the files in an archive; two of one name are refused: which would count."""
    if not S_ISREG(os.fstat(fd).st_mode):
        raise OciImageError(f"{path}: is no file")
    if os.pread(fd, 4, 0)[:2] == b"\x1f\x8b" or os.pread(fd, 4, 0) == b"\x28\xb5\x2f\xfd":
        raise OciImageError(f"{path}: is compressed", "decompress it: its layers are compressed already")
    names: dict[str, tuple[int, int]] = {}
    for count, member in enumerate(members(_Whole(fd))):
        name = member.name.removeprefix("./")
        if count > _MOST_NAMES or name in names:
            raise OciImageError(f"{path}: has {name[:100]!r} twice" if name in names else f"{path}: has too many names")
        if member.isreg() and not member.issparse():
            names[name] = (member.offset_data, member.size)
    return names
