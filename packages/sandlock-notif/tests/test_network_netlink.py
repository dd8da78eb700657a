"""Programs that list interfaces work, and learn nothing of the host's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess

import pytest
from netlab import run

from sandlock_policy import Policy

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

ANY = Policy(net_allow=["tcp://192.0.2.1"])
GETIFADDRS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
class Addrs(ctypes.Structure): pass
Addrs._fields_ = [("next", ctypes.POINTER(Addrs)), ("name", ctypes.c_char_p), ("flags", ctypes.c_uint),
                  *[(field, ctypes.c_void_p) for field in ("addr", "netmask", "dst", "data")]]
def listed():
    first = ctypes.POINTER(Addrs)()
    if libc.getifaddrs(ctypes.byref(first)): raise OSError(ctypes.get_errno(), "getifaddrs")
    names, one = [], first
    while one:
        family = ctypes.c_ushort.from_address(one.contents.addr).value if one.contents.addr else 0
        names.append((one.contents.name.decode(), family)); one = one.contents.next
    libc.freeifaddrs(first)
    return names
"""


def test_net_12_getifaddrs_lists_what_the_sandbox_may_know() -> None:
    output = run(GETIFADDRS + "tell(listed); tell(listed)", ANY).output.decode().splitlines()
    assert output[0] == output[1]
    names = eval(output[0])  # noqa: S307  # what our own code above printed
    assert ("lo", 17) in names
    assert ("lo", 2) in names
    assert {name for name, _ in names} <= {"lo", "eth0"}


def test_net_12_if_nameindex_and_the_resolver_work() -> None:
    code = """
tell(socket.if_nameindex)
print([f for f, *_ in socket.getaddrinfo("127.0.0.1", 80, socket.AF_INET, 1, 0, socket.AI_ADDRCONFIG)])
"""
    output = run(code, ANY).output.decode().splitlines()
    assert output[0].startswith("[(1, 'lo')")
    assert "AF_INET" in output[1]


@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
def test_net_12_ip_addr_shows_two_interfaces_and_no_address_of_the_host() -> None:
    ip = shutil.which("ip") or ""
    outcome = run("", ANY, argv=[ip, "-j", "addr"])
    assert outcome.code == 0
    shown = json.loads(outcome.output)
    assert [one["ifname"] for one in shown][:1] == ["lo"]
    host = json.loads(subprocess.run([ip, "-j", "addr"], capture_output=True, check=True).stdout)
    secrets = {a["local"] for one in host for a in one["addr_info"]} - {"127.0.0.1", "::1"}
    secrets |= {one["address"] for one in host} - {"00:00:00:00:00:00"}
    assert [text for text in secrets if text.encode() in outcome.output] == []
    assert run("", ANY, argv=[ip, "route"]).output == b""
    assert run("", ANY, argv=[ip, "link", "set", "lo", "down"]).code != 0
    assert b"UP" in run("", ANY, argv=[ip, "link", "show", "dev", "lo"]).output


def test_net_12_the_stand_in_is_a_netlink_socket_to_the_program_and_reaches_nobody_else() -> None:
    code = """
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
s.bind((0, 0)); name = s.getsockname(); print(name[0] > 0, name[1], s.family == socket.AF_NETLINK)
print(os.get_inheritable(s.fileno()), s.getblocking())
s.send(struct.pack("=IHHIIB3x", 20, 22, 0x301, 5, 0, 2)); data, _, _, sender = s.recvmsg(65536)
print(struct.unpack_from("=IHHII", data)[1:4], bytes((127, 0, 0, 1)) in data)
s.recv(100)
for _ in range(3000): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
many = []
try:
    while len(many) < 1000: many.append(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0))
except OSError as error: print(errno.errorcode[error.errno], len(many))
"""
    before = len(os.listdir("/proc/self/fd"))
    outcome = run(code, ANY)
    lines = outcome.output.decode().splitlines()
    assert lines[0] == "True 0 True"
    assert lines[1:3] == ["False True", "(20, 2, 5) True"]
    assert lines[3].startswith("EMFILE")
    assert len(os.listdir("/proc/self/fd")) <= before


def _refuses_fds() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, 83, 0)  # SO_PASSRIGHTS, 6.16
        except OSError:
            return False
    return True


def test_not_22_no_fd_is_passed_to_the_supervisor_to_be_closed_there() -> None:
    """The last copy of a file may take long to close; the next request is answered either way."""
    code = """
import array
n = socket.socket(16, socket.SOCK_RAW, 0)
r, w = os.pipe()
fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [w]))]
tell(lambda: n.sendmsg([struct.pack("=IHHII", 16, 0, 0, 1, 0)], fds))
tell(lambda: len(socket.if_nameindex()) > 0)
a, b = socket.socketpair(); tell(lambda: a.sendmsg([b"x"], fds))
"""
    first = "EPERM" if _refuses_fds() else "16"
    assert run(code, ANY).output.decode().split() == [first, "True", "1"]
