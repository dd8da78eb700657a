"""Laying layers over each other in a folder, as image-spec's layer.md says, whatever is in them.

The folder is private to this user while this goes on, so what is in it was put there by earlier entries of the same
image: those are the attackers. Every name is resolved by the kernel with the folder as the root (RESOLVE_IN_ROOT), so a
link that an entry made leads nowhere else; `..` is refused; nothing is opened that was there before, so no entry is
written through a link of another.

What an ordinary user cannot have in a file system, or should not, is not made: owners (everything is the caller's),
set-user-ID bits, devices, extended attributes. The owner can always read, and enter folders: inside there is no root
that modes do not count for.
"""

from __future__ import annotations

import os
from errno import EDQUOT, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOTDIR
from stat import S_ISDIR

from sandlock_cow.removing import remove_tree
from sandlock_policy.record import record
from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.members import members
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from tarfile import TarInfo

    from sandlock_runtime.images.layer import LayerStream

__all__ = ["INSIDE", "Hidden", "Tree", "find_whiteouts", "hide", "lay"]

# linux/openat2.h, 5.6
INSIDE = 0x10 | 0x02 | 0x01  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_WHITEOUT, _OPAQUE, _OTHER = b".wh.", b".wh..wh..opq", b".wh..wh."  # image-spec, layer.md, "Whiteouts"
_MOST_ENTRIES = 2_000_000
_CHUNK = 1 << 18
_OURS = (EDQUOT, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC)  # the machine's fault, not the entry's
_LATEST_S = 1 << 40  # what every file system's clock can hold is less; beyond it the kernel clamps


class Tree:
    """The folder that layers are laid into; `close` it. Names are lists of components."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.made = 0
        self._above: list[bytes] | None = None  # the folder that was looked up last, as archives go through one by one
        self._above_fd = -1

    def folder(self, parts: list[bytes]) -> int:
        """Return a borrowed fd of the folder `parts`, made where it is missing; good until the next call."""
        if parts != self._above:
            self.close()
            self._above_fd = self._open(parts)
            self._above = list(parts)
        return self._above_fd

    def close(self) -> None:
        """Close the folder that was looked up last; the tree's own fd stays the caller's."""
        if self._above_fd >= 0:
            os.close(self._above_fd)
        self._above_fd, self._above = -1, None

    def find(self, parts: list[bytes]) -> int:
        """Return an fd, the caller's, of a folder that is there; FileNotFoundError, NotADirectoryError."""
        try:
            return openat2(self.fd, b"/".join(parts) or b".", _FOLDER, INSIDE)
        except SyscallError as error:
            if error.errno in (ENOENT, ENOTDIR):  # OSError makes the fitting subclass of it, SyscallError is none
                raise OSError(error.errno, os.strerror(error.errno), os.fsdecode(b"/".join(parts))) from error
            raise

    def has_folder(self, parts: list[bytes]) -> bool:
        """Whether there is a folder of this name, and no link to one."""
        try:
            above = self.find(parts[:-1])
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return S_ISDIR(os.stat(parts[-1], dir_fd=above, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
        finally:
            os.close(above)

    def _open(self, parts: list[bytes]) -> int:
        there = len(parts)
        while True:
            try:
                fd = self.find(parts[:there])
                break
            except FileNotFoundError:
                there -= 1
        for name in parts[there:]:
            try:
                self.count()
                os.mkdir(name, 0o755, dir_fd=fd)
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def count(self) -> None:
        """One more thing is made."""
        self.made += 1
        if self.made > _MOST_ENTRIES:
            raise OciImageError(f"it has more than {_MOST_ENTRIES} entries", "nobody needs such an image")

    def clear(self, folder: int, name: bytes) -> None:
        """Remove what has this name, whatever it is; the next folder is looked up anew, as it may have led there."""
        self._above = None
        remove_tree(folder, name)


@record(frozen=True, slots=True)
class Hidden:
    """What a layer hides of those below it.

    Attributes:
        names: (folder, name) of each thing, b"" for all of the folder.
        folders: the layer's own folders, as paths.

    """

    names: list[tuple[list[bytes], bytes]]
    folders: set[bytes]


def find_whiteouts(stream: LayerStream) -> Hidden:
    """Read a layer to its end and check it; return what it hides."""
    found: list[tuple[list[bytes], bytes]] = []
    folders: set[bytes] = set()
    for count, member in enumerate(members(stream)):
        if count > _MOST_ENTRIES:
            raise OciImageError(f"a layer has more than {_MOST_ENTRIES} entries", "nobody needs such a layer")
        parts = _parts(member.name)
        if member.isdir():
            folders.add(b"/".join(parts))
        if not parts or not parts[-1].startswith(_WHITEOUT):
            continue
        name = parts[-1].removeprefix(_WHITEOUT)
        if parts[-1] == _OPAQUE:
            found.append((parts[:-1], b""))
        elif parts[-1].startswith(_OTHER):
            continue  # notes of the file system that the layer was made with
        elif name in (b"", b".", b".."):
            raise OciImageError(f"a layer hides {_shown(parts)}, which is no name")
        else:
            found.append((parts[:-1], name))
    stream.finish()
    return Hidden(found, folders)


def hide(tree: Tree, hidden: Hidden) -> None:
    """Remove what a layer hides of those below it; all of it before anything of its own is there.

    A folder of the layer's own that takes the place of a file or a link hides nothing: below such a thing is nothing,
    and what a link leads to is another folder.
    """
    for parts, name in hidden.names:
        above = [parts[: end + 1] for end in range(len(parts))]
        if any(b"/".join(one) in hidden.folders and not tree.has_folder(one) for one in above):
            continue
        try:
            folder = tree.find(parts)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            names = [name] if name else _names(folder)
            for one in names:
                remove_tree(folder, one)
        finally:
            os.close(folder)
    tree.close()


def lay(tree: Tree, stream: LayerStream) -> None:
    """Put a layer's own entries into the tree, and check it once more at its end."""
    times: list[tuple[list[bytes], float]] = []
    for member in members(stream):
        parts = _parts(member.name)
        if parts and parts[-1].startswith(_WHITEOUT):
            continue
        try:
            _add(tree, parts, member, stream, times)
        except OSError as error:
            if error.errno in _OURS:
                raise
            raise OciImageError(f"its entry {_shown(parts)} cannot be unpacked: {error}") from error
    stream.finish()
    tree.close()
    for parts, when in reversed(times):
        try:
            fd = tree.find(parts)
        except OSError:
            continue  # a later entry took its name
        try:
            _set_time(f"/proc/self/fd/{fd}", when)
        finally:
            os.close(fd)


def _add(
    tree: Tree, parts: list[bytes], member: TarInfo, stream: LayerStream, times: list[tuple[list[bytes], float]]
) -> None:
    tree.count()
    if not parts:
        if member.isdir():
            times.append((parts, member.mtime))
        return  # of the root only the content counts: it is ours to enter
    folder, name = tree.folder(parts[:-1]), parts[-1]
    if member.isdir():
        _make_folder(tree, folder, name, member.mode)
        times.append((parts, member.mtime))
    elif member.issparse():
        raise OciImageError(f"its entry {_shown(parts)} is a sparse file of GNU tar, which images do not have")
    elif member.isreg():
        _make_file(tree, folder, name, member, stream)
    elif member.islnk():
        _link(tree, parts, _parts(member.linkname))
    elif member.issym():
        _replace(tree, folder, name, lambda: os.symlink(_bytes(member.linkname), name, dir_fd=folder))
    elif member.isfifo():
        _replace(tree, folder, name, lambda: os.mkfifo(name, member.mode & 0o777, dir_fd=folder))
    elif member.isdev():
        tree.clear(folder, name)  # it hides what is below, and is of no use itself: no device is opened here
    else:
        raise OciImageError(f"its entry {_shown(parts)} is of the type {member.type!r}, which is not known here")


def _make_folder(tree: Tree, folder: int, name: bytes, mode: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        if not S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            tree.clear(folder, name)
            os.mkdir(name, 0o700, dir_fd=folder)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fchmod(fd, mode & 0o1777 | 0o700)
    finally:
        os.close(fd)


def _make_file(tree: Tree, folder: int, name: bytes, member: TarInfo, stream: LayerStream) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    except FileExistsError:
        tree.clear(folder, name)
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        left = member.size
        while left > 0:
            data = memoryview(stream.read(min(left, _CHUNK)))
            if not data:
                raise OciImageError("its archive ends in the middle of a file", "it is damaged")
            left -= len(data)
            while data:
                data = data[os.write(fd, data) :]
        os.fchmod(fd, member.mode & 0o777 | 0o400)
        _set_time(fd, member.mtime)
    finally:
        os.close(fd)


def _link(tree: Tree, parts: list[bytes], source: list[bytes]) -> None:
    if not source:
        raise OciImageError(f"its entry {_shown(parts)} is a link to nothing")
    above = tree.find(source[:-1])
    try:
        folder, name = tree.folder(parts[:-1]), parts[-1]
        _replace(
            tree, folder, name,
            lambda: os.link(source[-1], name, src_dir_fd=above, dst_dir_fd=folder, follow_symlinks=False),
        )  # fmt: skip
    finally:
        os.close(above)


def _replace(tree: Tree, folder: int, name: bytes, make: Callable[[], None]) -> None:
    try:
        make()
    except FileExistsError:
        tree.clear(folder, name)
        make()


def _set_time(place: int | str, when: float) -> None:
    # Not of this world is what a header may say: not a number, or beyond what the kernel takes.
    ns = int(min(max(when, 0), _LATEST_S) * 1_000_000_000) if when == when else 0  # noqa: PLR0124  # nan is not itself
    os.utime(place, ns=(ns, ns))


def _parts(name: str) -> list[bytes]:
    """Return the components of a name in an archive; absolute ones begin at the root as all do."""
    parts = [part for part in _bytes(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise OciImageError(f"its entry {_shown(parts)} has `..` in its name", "nobody makes such an image by accident")
    return parts


def _bytes(name: str) -> bytes:
    encoded = os.fsencode(name)
    if b"\0" in encoded:
        raise OciImageError(f"its entry {name[:100]!r} has a NUL byte in a name")
    return encoded


def _names(folder: int) -> list[bytes]:
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def _shown(parts: list[bytes]) -> str:
    return repr(os.fsdecode(b"/".join(parts))[:200])
