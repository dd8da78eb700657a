"""What the kernel will make of an execve: the file that runs and its arguments, found before the call is let go.

The names and the files may change afterwards. Nothing is built on their staying: the new image is compared with this,
and another one is killed. So a name that cannot be followed here is no excuse: it stands for no script.
"""

from __future__ import annotations

import os
import re
import stat
from errno import EXDEV
from typing import TYPE_CHECKING

from sandlock_sys.constants.openat2 import Resolve
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HEAD", "Program", "parse_first_line", "pin"]

_LEVELS = 6  # fs/exec.c, exec_binprm: five scripts, and then it must be a program
HEAD = 255
"""Bytes of a file that tell how it is run: BINPRM_BUF_SIZE of linux/binfmts.h, 5.1, without the NUL behind."""
_PATH_ONLY = os.O_PATH | os.O_CLOEXEC
# The links of procfs that mean whoever follows them; by any other name they are not followed.
_OWN = re.compile(rb"/proc/(?:self|thread-self)/(exe|fd/\d+)|/dev/(fd/\d+)(?:/+(.+))?", re.DOTALL)


class Program:
    """What must be found in the new image.

    Attributes:
        words: its arguments; None when nothing may run.
        file: an O_PATH fd of the file that runs, held so that its inode stays its own; -1 for one that could not be
            opened: then only the words count, and they are those of no script.

    """

    __slots__ = ("file", "words")

    def __init__(self, words: Sequence[bytes] | None, file: int = -1) -> None:
        self.words = tuple(words) if words is not None else None
        self.file = file

    def close(self) -> None:
        """Let go of the file."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def pin(tid: int, path: bytes, arguments: Sequence[bytes]) -> Program:
    """Return what a thread runs by executing `path`; `close` it. May wait for a disk: not for the loop's thread.

    Scripts are followed to their interpreters, as fs/binfmt_script.c does: interpreter, its argument and the script's
    path stand in the place of the first word.
    """
    words = list(arguments) or [b""]  # the kernel (5.18) adds the empty word
    for level in range(_LEVELS):
        try:
            file = _open_as(tid, path)
        except (OSError, ValueError):
            return Program(None if level else words)
        try:
            line = parse_first_line(_head(file))
        except ValueError:
            os.close(file)
            return Program(None)
        if line is None:
            return Program(words, file)
        os.close(file)
        interpreter, argument = line
        words = [interpreter, *([argument] if argument else []), path, *words[1:]]
        path = interpreter
    return Program(None)


def parse_first_line(head: bytes) -> tuple[bytes, bytes] | None:
    """Return interpreter and argument, or b"", of a script that begins with `head`; None for what is no script.

    Raises:
        ValueError: the kernel runs no such script.

    """
    if not head.startswith(b"#!"):
        return None
    line, end, _ = head[2:HEAD].partition(b"\0")[0].partition(b"\n")
    stripped = line.strip(b" \t")
    interpreter, *rest = re.split(rb"[ \t]+", stripped, maxsplit=1)
    cut = not end and len(line) == HEAD - 2
    if not interpreter or (cut and not re.search(rb"[ \t]", line.lstrip(b" \t"))):
        raise ValueError("no whole interpreter")
    return interpreter, rest[0] if rest else b""


def _open_as(tid: int, path: bytes) -> int:
    """Return an O_PATH fd of what `path` means to a thread."""
    own = _OWN.fullmatch(path)
    if own is not None:
        found = os.open(b"/proc/%d/%s" % (tid, own[1] or own[2]), _PATH_ONLY)
        if own[3] is None:
            return found
        path = own[3]
    elif path.startswith(b"/"):
        return _open_in_root(tid, path)
    else:
        found = os.open(b"/proc/%d/cwd" % tid, _PATH_ONLY)
    try:
        return openat2(found, path, _PATH_ONLY, Resolve.BENEATH | Resolve.NO_MAGICLINKS)
    except SyscallError as error:
        if error.errno != EXDEV:
            raise
        # It leaves the folder, by `..` or an absolute link, which mean something in the thread's root alone.
        return _open_in_root(tid, os.readlink(b"/proc/self/fd/%d" % found) + b"/" + path)
    finally:
        os.close(found)


def _open_in_root(tid: int, path: bytes) -> int:
    root = os.open(b"/proc/%d/root" % tid, _PATH_ONLY)
    try:
        return openat2(root, path, _PATH_ONLY, Resolve.IN_ROOT | Resolve.NO_MAGICLINKS)
    finally:
        os.close(root)


def _head(file: int) -> bytes:
    """Return how a file begins; nothing for one that may not be read, or is no regular file."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return b""
    try:
        # Safety: O_NONBLOCK, or a lease of the child's on its own file would make this wait.
        opened = os.open(b"/proc/self/fd/%d" % file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.pread(opened, HEAD, 0)
    except OSError:
        return b""
    finally:
        os.close(opened)
