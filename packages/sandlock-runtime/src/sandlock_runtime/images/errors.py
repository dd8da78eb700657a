"""What can be wrong with an image, as one exception."""

from __future__ import annotations

from contextlib import contextmanager

from sandlock_runtime.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OciImageError", "naming"]


class OciImageError(SandboxError):
    """An image cannot be read, is not what its digests say, or cannot be unpacked; nothing of it is left behind.

    Attributes:
        image: as it was written, or its digest.
        reason: what is wrong.
        remedy: what to do about it, or "".

    """

    def __init__(self, reason: str, remedy: str = "", image: str = "") -> None:
        super().__init__(reason, remedy, image)
        self.reason = reason
        self.remedy = remedy
        self.image = image

    def __str__(self) -> str:
        """Name the image, the fact and the remedy."""
        start = f"the image {self.image}: " if self.image else ""
        return start + self.reason + (f"; {self.remedy}" if self.remedy else "")


@contextmanager
def naming(image: str) -> Iterator[None]:
    """Put the image's name to what is raised inside; what the kernel refuses becomes an OciImageError too."""
    try:
        yield
    except OciImageError as error:
        raise OciImageError(error.reason, error.remedy, error.image or image) from error.__cause__
    except OSError as error:
        raise OciImageError(str(error), image=image) from error
