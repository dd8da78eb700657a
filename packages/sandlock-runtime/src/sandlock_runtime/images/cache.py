"""Unpacked images: one folder each below the user's cache, named by the manifest's digest, whole or not there.

    sha256-DIGITS/root/        the file system; an overlay mount covers it, so nothing that runs changes it
    sha256-DIGITS/image.json   what it is, and what its configuration says
    .new-sha256-DIGITS/        being made; locked by its maker, and left behind by one that was killed
    .gone-...                  being removed

A run holds its image's folder with a shared lock, so that nobody removes it meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sandlock_cow.removing import remove_tree
from sandlock_cow.storage import GONE, NEW, sweep
from sandlock_policy.record import record
from sandlock_runtime.images.errors import OciImageError, naming
from sandlock_runtime.images.hold import ROOT, cache_folder
from sandlock_runtime.images.layer import LayerStream
from sandlock_runtime.images.layout import Layout
from sandlock_runtime.images.manifest import ImageConfig, choose_image, config_of, read_image
from sandlock_runtime.images.unpack import Tree, find_whiteouts, hide, lay
from sandlock_sys.syncfs import syncfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandlock_runtime.images.layout import Blob, Descriptor
    from sandlock_runtime.images.manifest import Image

    Progress = Callable[[int, int], None]

__all__ = ["CachedImage", "find_image", "list_images", "remove_image", "unpack_image"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SCHEMA = 1
_META = "image.json"


@record(frozen=True, slots=True)
class CachedImage:
    """An image that is unpacked.

    Attributes:
        digest: of its manifest: `sha256:...`.
        source: what it was unpacked from, as it was written then.
        created_s: when, in seconds since 1970.
        size: bytes on disk.
        root: the folder with its file system.
        config: what it says about running.

    """

    digest: str
    source: str
    created_s: float
    size: int
    root: str
    config: ImageConfig


def unpack_image(reference: str, progress: Progress | None = None) -> CachedImage:
    """Return the image that `reference` names, unpacked now where it is not in the cache.

    Arguments:
        reference: `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`.
        progress: called with (bytes done, bytes in all) now and then; not where there is nothing to do.

    Raises:
        OciImageError: it cannot be read or unpacked; nothing is left behind.

    """
    with naming(reference), _open_layout(reference) as (layout, chosen):
        home = _open_home(make=True)
        try:
            name = chosen.digest.replace(":", "-")
            if not os.path.isdir(f"/proc/self/fd/{home}/{name}"):
                _make(home, name, reference, layout, read_image(layout, chosen), progress)
            return _read(home, name)
        finally:
            os.close(home)


def find_image(reference: str) -> tuple[str, ImageConfig]:
    """Return where the root of the image is, or would be once it is unpacked, and what it says about running."""
    with naming(reference), _open_layout(reference) as (layout, chosen):
        name = chosen.digest.replace(":", "-")
        return os.path.join(os.path.realpath(cache_folder()), name, ROOT), read_image(layout, chosen).config


def list_images() -> tuple[CachedImage, ...]:
    """Return the images in the cache, the oldest first."""
    try:
        home = _open_home(make=False)
    except FileNotFoundError:
        return ()
    try:
        found = [_read(home, name) for name in os.listdir(home) if not name.startswith((NEW, GONE))]
    finally:
        os.close(home)
    return tuple(sorted(found, key=lambda image: image.created_s))


def remove_image(word: str) -> CachedImage:
    """Remove the image whose digest, or only digest, begins with `word`; return what it was.

    Raises:
        OciImageError: there is none, there are several, or a run uses it.

    """
    digits = word.removeprefix("sha256:")
    images = [image for image in list_images() if digits and image.digest.partition(":")[2].startswith(digits)]
    if len(images) != 1:
        reason = "several images begin so" if images else "no such image is in the cache"
        raise OciImageError(reason, "`sandlock images` lists them", word)
    name = images[0].digest.replace(":", "-")
    home = _open_home(make=False)
    try:
        folder = os.open(name, _FOLDER, dir_fd=home)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OciImageError("a run uses it", "wait for its end", word) from error
            gone = f"{GONE}{name}-{os.urandom(8).hex()}"
            os.rename(name, gone, src_dir_fd=home, dst_dir_fd=home)
            remove_tree(home, os.fsencode(gone))
        finally:
            os.close(folder)
    finally:
        os.close(home)
    return images[0]


@contextmanager
def _open_layout(reference: str) -> Iterator[tuple[Layout, Descriptor]]:
    """Open the layout that a reference names, and choose the image in it."""
    kind, _, path = reference.partition(":")
    tag = ""
    if not os.path.lexists(path) and ":" in path:
        path, _, tag = path.rpartition(":")
    with Layout(path, archive=kind == "oci-archive") as layout:
        yield layout, choose_image(layout, tag)


def _open_home(*, make: bool) -> int:
    """Return an fd of the cache, made where it is missing; nobody else may put things there."""
    path = cache_folder()
    if make:
        os.makedirs(path, mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise OciImageError(f"the cache {path} can be written by others", "chmod 700 it, or set XDG_CACHE_HOME")
    return fd


def _make(home: int, name: str, reference: str, layout: Layout, image: Image, progress: Progress | None) -> None:
    """Unpack the image as `name`, unless somebody else did so meanwhile."""
    sweep(home)
    fresh = NEW + name
    while (folder := _claim(home, name, fresh)) is None:
        pass
    if folder < 0:
        return
    try:
        _fill(folder, reference, layout, image, progress)
        # One call for all that was written: an fsync for each file of an image takes minutes.
        syncfs(folder)
        os.rename(fresh, name, src_dir_fd=home, dst_dir_fd=home)
        os.fsync(home)
    except BaseException:
        remove_tree(home, os.fsencode(fresh))
        raise
    finally:
        os.close(folder)


def _claim(home: int, name: str, fresh: str) -> int | None:
    """Return an fd of the empty, locked folder `fresh`; -1 where `name` is there by now, None to try again.

    Whoever is unpacking the same image holds the lock, and is waited for; one that was killed holds none.
    """
    with suppress(FileExistsError):
        os.mkdir(fresh, 0o700, dir_fd=home)
    try:
        folder = os.open(fresh, _FOLDER, dir_fd=home)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        there = os.path.isdir(f"/proc/self/fd/{home}/{name}")
        mine = _is_still(home, fresh, folder)
        if mine and there:
            os.rmdir(fresh, dir_fd=home)
        if mine and not there:
            for entry in os.listdir(folder):
                remove_tree(folder, os.fsencode(entry))
            kept, folder = folder, -1
            return kept
        return -1 if there else None
    finally:
        if folder >= 0:
            os.close(folder)


def _is_still(home: int, fresh: str, folder: int) -> bool:
    try:
        return os.path.samestat(os.stat(fresh, dir_fd=home, follow_symlinks=False), os.fstat(folder))
    except FileNotFoundError:
        return False


def _fill(folder: int, reference: str, layout: Layout, image: Image, progress: Progress | None) -> None:
    from sandlock_runtime.images.furnish import furnish  # lazy: a cached image needs none

    os.mkdir(ROOT, 0o755, dir_fd=folder)
    root = os.open(ROOT, _FOLDER, dir_fd=folder)
    tree = Tree(root)
    meter = _Meter(progress, 2 * sum([layer.size for layer, _ in image.layers]))
    try:
        os.fchmod(root, 0o755)
        for layer, diff_id in image.layers:
            # Read twice: nothing of a layer is put anywhere before all of it is known to be what the manifest names,
            # and what it hides is only ever what was there before it.
            with layout.blob(layer) as blob:
                hidden = find_whiteouts(LayerStream(meter.watch(blob), layer.size, layer.media_type, diff_id))
            hide(tree, hidden)
            with layout.blob(layer) as blob:
                lay(tree, LayerStream(meter.watch(blob), layer.size, layer.media_type, diff_id))
        furnish(tree, image.config.cwd)
        size = _size_of(root)
    finally:
        tree.close()
        os.close(root)
    meta = {
        "schema": _SCHEMA,
        "digest": image.digest,
        "source": reference,
        "created_s": time.time(),
        "size": size,
        "config": {
            "Env": [f"{key}={value}" for key, value in image.config.env.items()],
            "WorkingDir": image.config.cwd,
            "Entrypoint": list(image.config.entrypoint),
            "Cmd": list(image.config.command),
            "User": image.config.user,
        },
    }
    fd = os.open(_META, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(meta, file)


def _size_of(root: int) -> int:
    total = 0
    for _, folders, files, fd in os.fwalk(b".", dir_fd=root):
        total += sum([os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks for name in (*folders, *files)])
    return total * 512  # st_blocks counts these everywhere: stat(2)


def _read(home: int, name: str) -> CachedImage:
    path = f"{os.path.realpath(f'/proc/self/fd/{home}')}/{name}"
    try:
        fd = os.open(f"{name}/{_META}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
        with open(fd, "rb") as file:
            meta = json.load(file)
        return CachedImage(
            meta["digest"], meta["source"], meta["created_s"], meta["size"], f"{path}/{ROOT}", config_of(meta["config"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OciImageError(f"{path} in the cache is damaged: {error}", f"remove it: rm -rf {path}") from error


class _Meter:
    """Counts what is read of all layers together."""

    def __init__(self, progress: Progress | None, whole: int) -> None:
        self._progress = progress
        self._whole = whole
        self._done = 0

    def watch(self, blob: Blob) -> Blob:
        """Count what is read of `blob` from now on."""
        if self._progress is not None:
            blob.on_read = self._read
        return blob

    def _read(self, count: int) -> None:
        self._done += count
        assert self._progress is not None  # noqa: S101  # watch saw it
        self._progress(self._done, self._whole)
