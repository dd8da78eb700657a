"""A program that makes every system call on a path, by every name of the call, and tells what each answered.

It runs inside a sandbox and bare, so that the answers can be compared. Raw calls through ctypes: libc would choose.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping

from supervision import PYTHON

from sandlock_arch import native
from sandlock_sys.capabilities import set_effective

__all__ = ["CALLS", "PRELUDE", "bare", "program"]

# name -> arguments; D: a directory's fd, P: the path, F: a fresh name beside it. Those without D have only the path.
CALLS: Mapping[str, str] = {
    "open": "P, 0, 0",
    "open:create": "P, 0o102, 0o600",
    "open:write": "P, 2, 0",
    "open:truncate": "P, 0o1000, 0",
    "open:path": "P, 0o10000000, 0",
    "creat": "P, 0o600",
    "openat": "D, P, 0, 0",
    "openat:nofollow": "D, P, 0o400000, 0",
    "openat2": "D, P, bytes(24), 24",
    "stat": "P, buf",
    "lstat": "P, buf",
    "newfstatat": "D, P, buf, 0",
    "newfstatat:nofollow": "D, P, buf, 0x100",
    "statx": "D, P, 0, 0x7ff, buf",
    "access": "P, 0",
    "faccessat": "D, P, 4",
    "faccessat2": "D, P, 4, 0x200",
    "readlink": "P, buf, 100",
    "readlinkat": "D, P, buf, 100",
    "statfs": "P, buf",
    "chmod": "P, 0o640",
    "fchmodat": "D, P, 0o640",
    "fchmodat2": "D, P, 0o640, 0",
    "chown": "P, uid, gid",
    "lchown": "P, uid, gid",
    "fchownat": "D, P, uid, gid, 0",
    "utime": "P, 0",
    "utimes": "P, 0",
    "futimesat": "D, P, 0",
    "utimensat": "D, P, 0, 0",
    "truncate": "P, 1",
    "getxattr": "P, b'user.x', buf, 100",
    "lgetxattr": "P, b'user.x', buf, 100",
    "listxattr": "P, buf, 100",
    "llistxattr": "P, buf, 100",
    "setxattr": "P, b'user.x', b'v', 1, 0",
    "lsetxattr": "P, b'user.x', b'v', 1, 0",
    "removexattr": "P, b'user.x'",
    "lremovexattr": "P, b'user.x'",
    "getxattrat": "D, P, 0, b'user.x', xargs, 16",
    "setxattrat": "D, P, 0, b'user.x', xargs, 16",
    "listxattrat": "D, P, 0, buf, 100",
    "removexattrat": "D, P, 0, b'user.x'",
    "link": "P, F",
    "link:onto": "H, P",
    "linkat": "D, P, -100, F, 0",
    "linkat:follow": "D, P, -100, F, 0x400",
    "symlink:onto": "b'x', P",
    "symlinkat:onto": "b'x', D, P",
    "mkdir": "P, 0o700",
    "mkdirat": "D, P, 0o700",
    "mknod": "P, 0o100600, 0",
    "mknodat": "D, P, 0o010600, 0",
    "inotify_add_watch": "watch, P, 0xfff",
    "chdir": "P",
    "rename": "P, F",
    "rename:onto": "H, P",
    "renameat": "D, P, -100, F",
    "renameat:onto": "-100, H, D, P",
    "renameat2": "D, P, -100, F, 0",
    "renameat2:exchange": "D, P, -100, H, 2",
    "renameat2:noreplace": "D, P, -100, F, 1",
    "unlink": "P",
    "unlinkat": "D, P, 0",
    "rmdir": "P",
    "unlinkat:rmdir": "D, P, 0x200",
}

PRELUDE = """
import ctypes, errno, json, os, shutil, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
numbers = json.loads(sys.argv[1])
buf, uid, gid = ctypes.create_string_buffer(512), os.getuid(), os.getgid()
xargs = ctypes.create_string_buffer(16)
def call(name, *args):
    words = [a if not isinstance(a, int) else ctypes.c_long(a) for a in args]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(numbers[name]), *words)
    return (result, "") if result >= 0 else (-1, errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno())))
"""


def names() -> dict[str, str]:
    """The rows that this architecture has."""
    return {row: arguments for row, arguments in CALLS.items() if row.partition(":")[0] in native().syscalls}


def program(code: str, *arguments: str) -> list[str]:
    """The command that runs `code` behind the prelude; the arguments follow the table of numbers in sys.argv."""
    numbers = dict(native().syscalls)
    return [PYTHON, "-I", "-S", "-c", PRELUDE + code, json.dumps(numbers), *arguments]


def bare(code: str, arguments: Iterable[str], cwd: str, first: Callable[[], None] | None = None) -> bytes:
    """What the program says without a sandbox; its process calls `first`, with all capabilities still."""
    environment = {"PATH": "/usr/bin:/bin"}

    def unprivileged() -> None:
        """The sandbox's processes have no capabilities, as uid 0 neither."""
        if first is not None:
            first()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(28, 3, 0, 0, 0)  # PR_SET_SECUREBITS: SECBIT_NOROOT and its lock
        set_effective(0)

    done = subprocess.run(
        program(code, *arguments),
        cwd=cwd,
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
        preexec_fn=unprivileged,
    )
    assert done.returncode == 0, os.fsdecode(done.stderr)
    return done.stdout
