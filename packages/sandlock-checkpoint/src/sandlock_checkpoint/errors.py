"""The exceptions of this package: capturing, reading an image, restoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_arch.errors import SandboxError

if TYPE_CHECKING:
    from sandlock_checkpoint.terms import Unsupported

__all__ = ["CaptureError", "CheckpointError", "ImageError", "InjectionError", "RestoreError"]


class CheckpointError(SandboxError):
    """Capturing, saving, loading or restoring failed; the base of all below."""


class CaptureError(CheckpointError):
    """A process could not be captured; all its threads run on.

    Attributes:
        pid: the process.
        unsupported: what it has that cannot be captured, all at once; () when the reason is another.

    """

    def __init__(self, pid: int, reason: str, unsupported: tuple[Unsupported, ...] = ()) -> None:
        super().__init__(f"process {pid} was not captured: {reason}")
        self.pid = pid
        self.reason = reason
        self.unsupported = unsupported

    def __reduce__(self) -> tuple[type[CaptureError], tuple[int, str, tuple[Unsupported, ...]]]:
        # An exception pickles its message, which does not fit this constructor.
        return type(self), (self.pid, self.reason, self.unsupported)


class ImageError(CheckpointError):
    """An image is not what the format demands; nothing of it was used.

    Attributes:
        file: name of the file in the image, or the image's path.
        field: what in it, as a path of keys and numbers ("mappings[3].start"), or "".
        reason: what is wrong.

    """

    def __init__(self, file: str, field: str, reason: str) -> None:
        super().__init__(f"{file}, {field}: {reason}" if field else f"{file}: {reason}")
        self.file = file
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str]]:
        return type(self), (self.file, self.field, self.reason)


class InjectionError(CheckpointError):
    """A system call could not be run in a stopped thread, or the thread did not come back from it.

    Attributes:
        tid: the thread.
        call: name of the system call.
        reason: what happened instead.

    """

    def __init__(self, tid: int, call: str, reason: str) -> None:
        super().__init__(f"{call} in thread {tid}: {reason}")
        self.tid = tid
        self.call = call
        self.reason = reason

    def __reduce__(self) -> tuple[type[InjectionError], tuple[int, str, str]]:
        return type(self), (self.tid, self.call, self.reason)


class RestoreError(CheckpointError):
    """A checkpoint could not be restored; whatever had been made of it is killed.

    Attributes:
        step: what was being restored ("mapping 7f00-8000", "fd 3", "vdso").
        reason: why it could not.
        skipped: what the restorer would have to give up, where that is the reason; each may be allowed by name.

    """

    def __init__(self, step: str, reason: str, skipped: tuple[Unsupported, ...] = ()) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.skipped = skipped

    def __reduce__(self) -> tuple[type[RestoreError], tuple[str, str, tuple[Unsupported, ...]]]:
        return type(self), (self.step, self.reason, self.skipped)
