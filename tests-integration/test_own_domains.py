"""A program that confines itself with Landlock inside a sandbox: it is really held, or told that it is not.

The attack is what happened where calls are made on behalf: Landlock said yes, and what the program gave up went on.
"""

from __future__ import annotations

import errno
import socket
from contextlib import closing
from typing import Any

import pytest

from sandlock import Sandbox

pytestmark = [pytest.mark.needs("landlock", level=4), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/alternatives"]
# LANDLOCK_ACCESS_FS_READ_FILE, LANDLOCK_ACCESS_NET_CONNECT_TCP (linux/landlock.h); then all of both is given up.
CONFINE_ITSELF = """
import ctypes, errno, os, socket, sys
call = ctypes.CDLL(None, use_errno=True).syscall
def made(*arguments):
    result = call(*arguments)
    return result if result >= 0 else -ctypes.get_errno()
ruleset = made(444, ctypes.byref((ctypes.c_uint64 * 2)(1 << 2, 1 << 1)), ctypes.c_size_t(16), ctypes.c_uint32(0))
confined = made(446, ctypes.c_int(ruleset), ctypes.c_uint32(0))
def outcome(act):
    try: act()
    except OSError as error: return error.errno
    return 0
read = outcome(lambda: open("/usr/bin/env", "rb"))
reach = outcome(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])))) if len(sys.argv) > 1 else 0
print(ruleset, confined, made(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)), read, reach)
"""


def confine_itself(*arguments: str, **fields: Any) -> list[int]:
    """(ruleset or -errno, 0 or -errno, ABI or -errno, errno of a read given up, errno of a connection given up)."""
    fields = {"fs_readable": SYSTEM, "fs_writable": ["/dev/null"], **fields}
    result = Sandbox(**fields).run(["/usr/bin/python3", "-c", CONFINE_ITSELF, *arguments], timeout=60)
    assert result.success, result
    return [int(word) for word in result.stdout.split()]


def test_a_domain_of_its_own_holds_where_the_kernel_makes_the_calls() -> None:
    ruleset, confined, abi, read, _ = confine_itself(max_processes=20)
    assert (ruleset > 2, confined, abi >= 4, read) == (True, 0, True, errno.EACCES)


@pytest.mark.parametrize("fields", [{"fs_denied": ["/usr/share/doc"]}, {"namespaces": "off", "name": "inside"}])
def test_where_files_are_served_there_is_no_landlock(fields: dict[str, Any]) -> None:
    assert confine_itself(**fields)[:3] == [-errno.EOPNOTSUPP] * 3


def test_where_connections_are_made_on_behalf_there_is_no_landlock() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        told = confine_itself(str(port), net_allow=[f"127.0.0.1:{port}"])
        assert told[:3] == [-errno.EOPNOTSUPP] * 3
        assert told[4] == 0  # control: the call that Landlock would not have held


def test_a_ruleset_from_outside_is_not_entered_either() -> None:
    code = "import ctypes; print(ctypes.CDLL(None, use_errno=True).syscall(446, 900, 0), ctypes.get_errno())"
    box = Sandbox(fs_readable=SYSTEM, fs_writable=["/dev/null"], fs_denied=["/usr/share/doc"])
    result = box.run(["/usr/bin/python3", "-c", code], timeout=60)
    assert result.stdout.split() == [b"-1", b"%d" % errno.EOPNOTSUPP], result  # EBADF is the kernel's
