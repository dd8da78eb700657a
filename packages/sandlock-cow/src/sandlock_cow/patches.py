"""What a branch changed, as a patch that `git apply` and `patch` understand."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from sandlock_cow.line_diff import hunks
from sandlock_cow.model import Kind
from sandlock_cow.walking import open_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sandlock_cow.branch import Branch
    from sandlock_cow.model import Change, Entry

__all__ = ["patch"]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST = 1 << 20  # bytes of a file on one side; what is larger is no text that anybody reads
_TYPES = (Kind.FILE, Kind.SYMLINK)


def patch(branch: Branch, changes: Iterable[Change]) -> Iterator[bytes]:
    """Yield the lines of a patch in git's format, of the files and links among `changes` of `branch`.

    A file that holds a NUL byte, more than 1 MiB, or nothing that may be read is told as binary: then `git apply`
    refuses the whole. Directories, FIFOs and sockets are no part of a patch. The text is the program's, as it is.
    """
    root = os.open(branch.lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for change in changes:
            before = change.before if change.before is not None and change.before.kind in _TYPES else None
            after = change.after if change.after is not None and change.after.kind in _TYPES else None
            if before is not None and after is not None and before.kind is not after.kind:
                yield from _one(branch, root, change.path, before, None)
                before = None
            if before is not None or after is not None:
                yield from _one(branch, root, change.path, before, after)
    finally:
        os.close(root)


def _one(branch: Branch, root: int, path: str, before: Entry | None, after: Entry | None) -> Iterator[bytes]:
    name = os.fsencode(path)
    ours, theirs = _quoted(b"a/" + name), _quoted(b"b/" + name)
    yield b"diff --git %s %s\n" % (ours, theirs)
    yield from _modes(before, after)
    old = _content(before, lambda: open_below(root, name, _FLAGS))
    new = _content(after, lambda: branch.open(name, _FLAGS))
    if old == new and old is not None:
        return
    first = ours if before is not None else b"/dev/null"
    second = theirs if after is not None else b"/dev/null"
    if old is None or new is None:
        yield b"Binary files %s and %s differ\n" % (first, second)
        return
    yield b"--- %s%s\n" % (first, b"\t" if b" " in first and first[:1] != b'"' else b"")
    yield b"+++ %s%s\n" % (second, b"\t" if b" " in second and second[:1] != b'"' else b"")
    yield from hunks(_lines(old), _lines(new))


def _modes(before: Entry | None, after: Entry | None) -> Iterator[bytes]:
    # Of a file's mode git knows whether its owner may execute it; the rest of it is in `Change`.
    modes = [_mode(entry) if entry is not None else b"" for entry in (before, after)]
    if before is None:
        yield b"new file mode %s\n" % modes[1]
    elif after is None:
        yield b"deleted file mode %s\n" % modes[0]
    elif modes[0] != modes[1]:
        yield b"old mode %s\nnew mode %s\n" % (modes[0], modes[1])


def _mode(entry: Entry) -> bytes:
    return b"120000" if entry.kind is Kind.SYMLINK else b"100755" if entry.mode & 0o100 else b"100644"


def _content(entry: Entry | None, opened: Callable[[], int]) -> bytes | None:
    """Return one side: nothing where nothing is; None where it is no text, or not to be read."""
    if entry is None:
        return b""
    if entry.kind is Kind.SYMLINK:
        return os.fsencode(entry.target)
    if entry.size > _MOST:
        return None
    try:
        fd = opened()
    except OSError:  # what may not be read, or is not there any more, is shown as differing
        return None
    with open(fd, "rb") as file:
        data = file.read(_MOST + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b"\0"
    return None if len(data) > _MOST or b"\0" in data else data


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _quoted(name: bytes) -> bytes:
    """Return a name as git writes it: in quotes, with octal escapes, where a line could not hold it as it is."""
    if all(32 <= byte != 127 and byte not in b'"\\' for byte in name) and name.isascii():
        return name
    plain = b"".join(b"%c" % byte if 32 <= byte < 127 and byte not in b'"\\' else b"\\%03o" % byte for byte in name)
    return b'"' + plain + b'"'
