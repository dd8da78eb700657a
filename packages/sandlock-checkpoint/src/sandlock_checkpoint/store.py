"""Named images: one directory of a user that holds them, each under a name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.folder import check_owner, is_component
from sandlock_checkpoint.image.load import load
from sandlock_checkpoint.image.publish import remove_image
from sandlock_checkpoint.image.reader import ImageReader
from sandlock_checkpoint.image.save import save

if TYPE_CHECKING:
    from sandlock_checkpoint.image.page_writer import Progress
    from sandlock_checkpoint.image.parent import Changed
    from sandlock_checkpoint.model import Checkpoint

__all__ = ["Store", "default_store"]


def default_store() -> str:
    """Return $XDG_STATE_HOME/sandlock/checkpoints, with ~/.local/state where that is not an absolute path."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "sandlock", "checkpoints")


class Store:
    """A directory of images, the caller's alone (0700). It is made by the first save."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Use `path`, or the default store."""
        self.path = os.path.abspath(os.fspath(path)) if path is not None else default_store()

    def save(
        self,
        checkpoint: Checkpoint,
        name: str,
        *,
        compression: str = "none",
        parent: str | None = None,
        changed: Changed | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Save `checkpoint` as `name`, and close it; see `image.save.save`.

        Arguments:
            checkpoint: what to save.
            name: one component of a path, not beginning with a dot.
            compression: "none" or "zstd".
            parent: name of an image whose pages need not be written again.
            changed: what may differ from it.
            progress: told bytes done, and all.

        Returns:
            The image's digest.

        Raises:
            ImageError: as `image.save.save`; or images in the store need the one that would be replaced.

        """
        try:
            path = self._path(name)
            beside = self._path(parent) if parent is not None else None
            self._make()
            self._refuse_needed(name)
        except BaseException:
            checkpoint.close()
            raise
        return save(checkpoint, path, compression=compression, parent=beside, changed=changed, progress=progress)

    def load(self, name: str) -> Checkpoint:
        """Return the checkpoint saved as `name`; see `image.load.load`."""
        self._check()
        return load(self._path(name))

    def list(self) -> list[str]:
        """Return the names of the images, in order; what is no image of ours is left out."""
        if not self._check(missing=True):
            return []
        return sorted(name for name in os.listdir(self.path) if self._ancestors(name) is not None)

    def delete(self, name: str) -> None:
        """Remove the image `name`.

        Raises:
            ImageError: there is none, or others in the store need it.

        """
        path = self._path(name)
        self._check()
        self._refuse_needed(name)
        try:
            remove_image(path)
        except OSError as error:
            raise ImageError(path, "", f"could not be removed: {error.strerror}") from error

    def _path(self, name: str) -> str:
        if not is_component(name) or name.startswith("."):
            raise ImageError(self.path, "", f"{name!r} is no name of an image: one component, not beginning with a dot")
        return os.path.join(self.path, name)

    def _make(self) -> None:
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            self._check()
        except OSError as error:
            raise ImageError(self.path, "", f"the store cannot be made: {error.strerror}") from error

    def _check(self, *, missing: bool = False) -> bool:
        """Refuse a store that others may write to or read; tell whether it is there."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            if missing:
                return False
            raise ImageError(self.path, "", "there is no such store") from None
        check_owner(status, self.path, os.geteuid())
        return True

    def _refuse_needed(self, name: str) -> None:
        """Refuse when another image has pages in the image `name`."""
        needed = [one for one in sorted(os.listdir(self.path)) if one != name and name in (self._ancestors(one) or ())]
        if needed:
            raise ImageError(os.path.join(self.path, name), "", f"is needed by {', '.join(needed)}")

    def _ancestors(self, name: str) -> tuple[str, ...] | None:
        """Return the names of the images that `name` needs; None when it is no image."""
        if name.startswith("."):
            return None
        try:
            reader = ImageReader.open(os.path.join(self.path, name))
        except ImageError:
            return None
        reader.folder.close()
        return tuple(one.name for one in reader.meta.ancestors)
