"""Wildcards and refreshed names, with a DNS server of the test's in namespaces of its own: glibc's resolver inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.needs("landlock", level=1),
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("command:ip"),
]

# Addresses that no rule takes for private, on the loopback of a network that has nothing else.
OLD, NEW = "93.184.215.10", "93.184.215.11"

WORLD = """
import os, socket, subprocess, sys, threading
sys.path[:0] = {path!r}
from sandlock_notif.content.dns import A, NO_ERROR, parse_question, reply
from sandlock import Sandbox

def must(*argv): subprocess.run(argv, check=True)
must("ip", "link", "set", "lo", "up")
for address in ({old!r}, {new!r}): must("ip", "address", "add", address + "/32", "dev", "lo")
for name, text in (("hosts", "127.0.0.1 localhost\\n"), ("resolv.conf", "nameserver 127.0.0.1\\n")):
    open({folder!r} + "/" + name, "w").write(text)
    must("mount", "--bind", {folder!r} + "/" + name, os.path.realpath("/etc/" + name))

answer, asked = [{old!r}], []
def names():
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    while True:
        data, sender = server.recvfrom(4096)
        question = parse_question(data.partition(b"\\0\\0)")[0] if data[11] else data)
        asked.append(question.name)
        server.sendto(reply(question, NO_ERROR, answer if question.kind == A else (), 60), sender)
def greet(address):
    listener = socket.create_server((address, 80))
    while True:
        connection, _ = listener.accept()
        connection.sendall(address.encode())
        connection.close()
for work in (names, lambda: greet({old!r}), lambda: greet({new!r})):
    threading.Thread(target=work, daemon=True).start()

PROGRAM = '''
import errno, socket, sys
for line in sys.stdin:
    try: print(socket.create_connection((line.strip(), 80), timeout=20).recv(20).decode(), flush=True)
    except socket.gaierror: print("no such name", flush=True)
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
'''
SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/etc/hosts", "/etc/resolv.conf",
          "-/etc/nsswitch.conf", "-/etc/host.conf", "-/etc/gai.conf"]
class Asker:
    def __init__(self, **fields):
        self.box = Sandbox(fs_readable=SYSTEM, namespaces={namespaces!r}, **fields)
        self.process = self.box.popen(["/usr/bin/python3", "-c", PROGRAM], stdin=-1, stdout=-1)
    def __call__(self, host):
        self.process.stdin.write(host.encode() + b"\\n"); self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()
"""

WILDCARD = """
ask = Asker(net_allow=["tcp://*.names.example:80"])
print([ask({old!r}), ask("www.names.example"), ask({old!r})])  # only what it was told may be connected to
print([ask("names.example"), ask("www.other.example")], "www.other.example" in asked)  # nobody is asked about them
answer[:] = [{new!r}]
print([ask({new!r}), ask("more.names.example"), ask({new!r})])
answer[:] = ["127.0.0.1", "169.254.169.254"]
print([ask("evil.names.example"), ask("127.0.0.1")])  # rebinding: such answers are not passed on
"""

REFRESHED = """
import sandlock_notif.handlers.network.setup
sandlock_notif.handlers.network.setup.LAUNCH_TTL_S = -1  # as if the launch were a minute ago
fixed = Asker(net_allow=["tcp://www.names.example:80"])
fresh = Asker(net_allow=["tcp://www.names.example:80"], net_refresh=True)
print([ask({old!r}) for ask in (fixed, fresh)])
print([ask("www.names.example") for ask in (fixed, fresh)])
answer[:] = [{new!r}]
print([ask("www.names.example") for ask in (fixed, fresh)])
print([ask({new!r}) for ask in (fixed, fresh)])
"""

COMMAND = """
done = subprocess.run([sys.executable, "-m", "sandlock_cli", "run", "--net-allow", "*.names.example:80", "--",
    "python3", "-c", PROGRAM], input="www.names.example\\nwww.other.example\\n", capture_output=True, text=True,
    env={{**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}})
print(done.stdout.split("\\n"), done.stderr)
"""


def in_a_world(code: str, folder: Path, namespaces: str = "auto") -> list[str]:
    """Run `code` where DNS is ours, and return what it prints."""
    path = [one for one in sys.path if one]
    code = (WORLD + code).format(path=path, old=OLD, new=NEW, folder=str(folder), namespaces=namespaces)
    argv = ["unshare", *(["-r"] if os.geteuid() else []), "-n", "-m", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("this host gives no namespaces")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_net_02_net_03_a_wildcard_allows_what_the_program_was_told_and_nothing_else(
    tmp_path: Path, namespaces: str
) -> None:
    assert in_a_world(WILDCARD, tmp_path, namespaces) == [
        str(["ECONNREFUSED", OLD, OLD]),
        f"{['no such name', 'no such name']} False",
        str(["ECONNREFUSED", NEW, NEW]),
        str(["no such name", "ECONNREFUSED"]),
    ]


def test_a_refreshed_name_follows_its_address_and_another_does_not(tmp_path: Path) -> None:
    assert in_a_world(REFRESHED, tmp_path) == [
        str([OLD, "ECONNREFUSED"]), str([OLD, OLD]), str([OLD, NEW]), str(["ECONNREFUSED", NEW]),
    ]  # fmt: skip


def test_a_wildcard_as_typed(tmp_path: Path) -> None:
    [line] = in_a_world(COMMAND, tmp_path)
    assert line.startswith(str([OLD, "no such name", ""])), line
