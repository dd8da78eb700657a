"""What this host offers to tests, each feature found by trying it.

The probes use libc through ctypes and depend on nothing of sandlock: a test suite must not ask the code under
test whether it should run.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PROBES", "UnknownFeatureError", "level"]

# These numbers are the same on every architecture that has the asm-generic table or was unified with it in 5.1.
_NR_LANDLOCK_CREATE_RULESET = 444  # 5.13
_NR_PIDFD_GETFD = 438  # 5.6
_LANDLOCK_CREATE_RULESET_VERSION = 1  # linux/landlock.h, 5.13
_NR_USERFAULTFD = 323 if os.uname().machine == "x86_64" else 282  # 4.3
_UFFD_USER_MODE_ONLY = 1  # linux/userfaultfd.h, 5.11, as all of these
_UFFD_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFD_FEATURE_WP_ASYNC = 1 << 15  # 6.7
_PIDFD_THREAD = os.O_EXCL  # linux/pidfd.h, 6.9


class UnknownFeatureError(LookupError):
    """A test needs a feature that no probe knows: a misspelt marker, never a reason to skip."""


def _syscall(number: int, *arguments: int | None) -> int:
    """Call the kernel; -1 for any error."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *(ctypes.c_void_p(word) for word in arguments)))


def _succeeds(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    return done.returncode == 0


def _landlock() -> int:
    """The Landlock ABI version; 0 where it is not built in or not enabled at boot.

    It is the older one where the runtime is told to use no newer (`SANDLOCK_LANDLOCK_ABI`).
    """
    found = max(0, _syscall(_NR_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION))
    pretended = os.environ.get("SANDLOCK_LANDLOCK_ABI", "")
    return min(found, int(pretended)) if pretended.isdecimal() else found


def _seccomp() -> int:
    """1 with seccomp filters, 2 with user notifications (5.0) too."""
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    except FileNotFoundError:
        return 0
    return 2 if "user_notif" in actions else 1


def _user_namespace() -> int:
    return int(_succeeds("unshare", "--user", "--map-root-user", "true"))


def _mount_namespace() -> int:
    return int(_succeeds("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"))


def _pid_namespace() -> int:
    return int(_succeeds("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"))


def _pidfd() -> int:
    """1 with pidfd_open (5.3), 2 with pidfd_getfd (5.6), 3 with PIDFD_THREAD (6.9)."""
    try:
        own = os.pidfd_open(os.getpid())
    except OSError:
        return 0
    try:
        copy = _syscall(_NR_PIDFD_GETFD, own, own, 0)
    finally:
        os.close(own)
    if copy < 0:
        return 1
    os.close(copy)
    return 3 if _pidfd_of_a_thread_opens() else 2


def _pidfd_of_a_thread_opens() -> bool:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        os.close(os.pidfd_open(thread.native_id, _PIDFD_THREAD))
    except OSError:
        return False
    finally:
        done.set()
        thread.join()
    return True


def _ptrace() -> int:
    """1 if a process may attach to a sibling of the same user (Yama's scope is 0, or Yama is absent)."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if not scope.exists():
        return 1
    return int(scope.read_text().strip() == "0" or (os.geteuid() == 0 and scope.read_text().strip() in "12"))


def _compiler() -> int:
    """1 if a static C program can be built and runs."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int main(void) { return 0; }\n")
        program = str(source.with_suffix(""))
        return int(_succeeds("cc", "-static", "-o", program, str(source)) and _succeeds(program))


def _loopback(family: socket.AddressFamily, address: str) -> int:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.bind((address, 0))
    except OSError:
        return 0
    return 1


def _core_dumps() -> int:
    """1 if a crash may leave a core file in the working directory."""
    return int(not Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"))


def _write_notes() -> int:
    """1 if userfaultfd notes by itself what is written (6.7)."""
    fd = _syscall(_NR_USERFAULTFD, os.O_CLOEXEC | _UFFD_USER_MODE_ONLY)
    if fd < 0:
        return 0
    try:
        fcntl.ioctl(fd, _UFFDIO_API, struct.pack("=3Q", _UFFD_API, _UFFD_FEATURE_WP_ASYNC, 0))
    except OSError:
        return 0
    finally:
        os.close(fd)
    return 1


PROBES: dict[str, Callable[[], int]] = {
    "landlock": _landlock,
    "seccomp": _seccomp,
    "user_namespace": _user_namespace,
    "mount_namespace": _mount_namespace,
    "pid_namespace": _pid_namespace,
    "pidfd": _pidfd,
    "ptrace": _ptrace,
    "write_notes": _write_notes,
    "compiler": _compiler,
    "ipv4": lambda: _loopback(socket.AF_INET, "127.0.0.1"),
    "ipv6": lambda: _loopback(socket.AF_INET6, "::1"),
    "core_dumps": _core_dumps,
    "root": lambda: int(os.geteuid() == 0),
    "ordinary_user": lambda: int(os.geteuid() != 0),
    "two_cpus": lambda: int(len(os.sched_getaffinity(0)) >= 2),
    "x86_64": lambda: int(os.uname().machine == "x86_64" and sys.maxsize > 2**32),
    "aarch64": lambda: int(os.uname().machine == "aarch64"),
    "riscv64": lambda: int(os.uname().machine == "riscv64"),
}


@functools.cache
def level(feature: str) -> int:
    """The level at which this host has `feature`; 0 means not at all.

    `command:NAME` asks for a program on PATH, `module:NAME` for a package that can be imported.

    Raises UnknownFeatureError for a name without a probe.
    """
    if feature.startswith("command:"):
        return int(shutil.which(feature.removeprefix("command:")) is not None)
    if feature.startswith("module:"):
        return int(find_spec(feature.removeprefix("module:")) is not None)
    if feature not in PROBES:
        known = ", ".join((*sorted(PROBES), "command:NAME", "module:NAME"))
        raise UnknownFeatureError(f"no probe for {feature!r}; known: {known}")
    return PROBES[feature]()
