"""Real programs, as they are: clients and servers inside; interception for a proxy; ping in a network of its own."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from netlab import denied, free_port, run, serve, tables_of
from supervision import PYTHON

from sandlock_policy import Policy
from sandlock_testkit.needs import lacks
from sandlock_testkit.servers import wait_for_server

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        lacks(f"command:{name}", f"{name} is not installed")
    return found


@contextmanager
def outside(argv: list[str], port: int) -> Iterator[None]:
    """A server of the host's, until the block ends."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_server(port, process)
            yield
        finally:
            process.terminate()


def test_curl_gets_what_is_allowed_by_address_and_by_name() -> None:
    curl, port, other = program("curl"), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "page").write_text("content")
        server = [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", folder]
        with outside([*server, str(port)], port), outside([*server, str(other)], other):
            policy = Policy(net_allow=[f"tcp://127.0.0.1:{port}"])
            url = f"http://127.0.0.1:{port}/page"
            assert run("", policy, argv=[curl, "-sS", url]).output == b"content"
            refused = run("", policy, argv=[curl, "-s", f"http://127.0.0.1:{other}/page"])
            assert (refused.code, refused.output) == (7, b"")
            assert denied(refused) == [("connect", f"--net-allow tcp://127.0.0.1:{other}")]


def test_redis_serves_inside_and_its_client_reaches_it_from_inside_only_when_allowed() -> None:
    server, client, port = program("redis-server"), program("redis-cli"), free_port()
    argv = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"]
    code = f"""
import subprocess
server = subprocess.Popen({argv!r}, stdout=subprocess.DEVNULL)
def ask(*words):
    return subprocess.run([{client!r}, "-p", "{port}", *words], capture_output=True, text=True).stdout.strip()
for _ in range(100):
    if ask("ping") == "PONG": break
    time.sleep(0.05)
print(ask("set", "a", "1"), ask("get", "a"))
server.terminate(); server.wait()
"""
    assert run(code, net_allow_bind=[port]).output == b"OK 1\n"
    with outside(argv, port):
        ask = [client, "-p", str(port), "ping"]
        assert run("", argv=ask, net_allow=[f"tcp://127.0.0.1:{port}"]).output == b"PONG\n"
        assert b"PONG" not in run("", argv=ask, net_allow=["tcp://192.0.2.1"]).output


def test_an_http_server_inside_is_reached_from_outside_on_the_granted_port() -> None:
    port = free_port()
    got: list[bytes] = []

    def fetch(*_: object) -> None:
        def work() -> None:
            for _ in range(100):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as client:
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    got.append(client.recv(100))
                    return
                time.sleep(0.05)

        threading.Thread(target=work).start()

    code = f"""
import http.server
server = http.server.HTTPServer(("127.0.0.1", {port}), http.server.SimpleHTTPRequestHandler)
server.timeout = 10; server.handle_request()
"""
    fetch()
    run(code, net_allow_bind=[port])
    assert got
    assert got[0].startswith(b"HTTP/1.0 200")


def test_ssh_speaks_to_an_allowed_port() -> None:
    ssh = program("ssh")
    with serve() as server:
        argv = [ssh, "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-p", str(server.port), "127.0.0.1", "true"]
        run("", argv=argv, net_allow=[f"tcp://127.0.0.1:{server.port}"])
        assert server.seen
        assert server.seen[0].startswith(b"SSH-2.0")


def test_dig_asks_an_allowed_server_by_udp() -> None:
    dig = program("dig")
    with serve(kind=socket.SOCK_DGRAM) as server:
        argv = [dig, "+tries=1", "+time=1", "-p", str(server.port), "@127.0.0.1", "name.example"]
        run("", argv=argv, net_allow=[f"udp://127.0.0.1:{server.port}"])
        assert server.seen
        assert b"\4name\7example\0" in server.seen[0]
        count = len(server.seen)
        run("", argv=argv, net_allow=["tcp://127.0.0.1"])
        assert len(server.seen) == count


@pytest.mark.parametrize("blocking", [True, False])
def test_an_intercepted_port_leads_to_the_proxy_and_looks_like_the_destination(blocking: bool) -> None:
    asked: list[tuple[str, int]] = []

    def intercept(connection: socket.socket, destination: tuple[str, int]) -> None:
        asked.append(destination)

        def work() -> None:
            with connection:
                connection.setblocking(True)
                connection.sendall(connection.recv(100).upper())

        threading.Thread(target=work).start()

    policy = Policy(http_allow=["GET 192.0.2.1/*", "GET [2001:db8::1]/*"])
    tables = tables_of(policy, intercept=intercept)
    code = f"""
import select
def ask(host, family):
    s = socket.socket(family); s.setblocking({blocking})
    code = s.connect_ex((host, 80)); select.select([], [s], [], 5); s.setblocking(True)
    s.sendall(b"request"); print(code in (0, errno.EINPROGRESS), s.recv(100), s.getpeername()[:2])
ask("192.0.2.1", socket.AF_INET); ask("2001:db8::1", socket.AF_INET6); ask("::ffff:192.0.2.1", socket.AF_INET6)
tell(tcp("192.0.2.1", 81))
"""
    output = run(code, policy, tables=tables).output.decode().splitlines()
    assert output == [
        "True b'REQUEST' ('192.0.2.1', 80)", "True b'REQUEST' ('2001:db8::1', 80)",
        "True b'REQUEST' ('::ffff:192.0.2.1', 80)", "ECONNREFUSED",
    ]  # fmt: skip
    assert asked == [("192.0.2.1", 80), ("2001:db8::1", 80), ("192.0.2.1", 80)]


OWN_NETWORK = """
import subprocess, sys
sys.path[:0] = {path!r}
from netlab import run, serve
def sysctl(name, value): open("/proc/sys/net/ipv4/" + name, "w").write(value)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
"""
PING = """
sysctl("ping_group_range", "0 0")
code = '''
s = socket.socket(type=socket.SOCK_DGRAM, proto=socket.IPPROTO_ICMP)
s.settimeout(5)
for host in ("127.0.0.1", "127.0.0.2"): tell(lambda: s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), (host, 0)))
print(s.recv(100)[0]); tell(lambda: s.connect(("127.0.0.2", 0)))
'''
print(run(code, net_allow=["icmp://127.0.0.1"]).output)
print(run(code, net_allow=["127.0.0.1"]).output.split()[-1:])
"""
REAL_PING = """
sysctl("ping_group_range", "0 0")
for host, rule in (("127.0.0.1", "icmp://127.0.0.1"), ("::1", "icmp://[::1]"), ("127.0.0.2", "icmp://127.0.0.1")):
    outcome = run("", argv=[{ping!r}, "-n", "-q", "-c", "1", "-W", "5", host], net_allow=[rule])
    print(outcome.code, b" 1 received" in outcome.output, [event.reason for event in outcome.events])
"""
PROBE = """
import socket
with serve(kind=socket.SOCK_DGRAM) as server:
    code = f'''
s = socket.socket(type=socket.SOCK_DGRAM)
tell(lambda: s.connect(("127.0.0.1", {server.port}))); print(s.getsockname()[0]); tell(s.getpeername)
for _ in range(3): tell(lambda: s.send(b"x")); time.sleep(0.01)
tell(lambda: s.sendto(b"x", ("127.0.0.1", {server.port})))
tell(lambda: s.connect(("127.0.0.2", {server.port})))
tell(lambda: socket.socket(type=socket.SOCK_DGRAM).bind(("127.0.0.1", 0)))
libc = __import__("ctypes").CDLL(None); libc.connect(s.fileno(), bytes(16), 16); print(s.getsockname()[1])
'''
    print(run(code, net_allow=["icmp://127.0.0.1"]).output.decode().splitlines())
    print(server.seen)
"""
SCOPED = """
subprocess.run(["ip", "addr", "add", "fe80::1/64", "dev", "lo", "nodad"], check=True)
import socket
lo = socket.if_nametoindex("lo")
with socket.socket(socket.AF_INET6) as server:
    server.bind(("fe80::1", 0, 0, lo)); server.listen(); port = server.getsockname()[1]
    code = f'''
def to(host, scope):
    def work():
        with socket.socket(socket.AF_INET6) as s: s.connect((host, {port}, 0, scope)); return s.getpeername()[3]
    return work
for _ in range(2): tell(to("fe80::1", {lo})); tell(to("fe80::2", {lo})); tell(to("fe80::1", 0)); tell(to("fe80::1", 99))
'''
    print(lo)
    for rule in (f"tcp://[fe80::1]:{port}", f"tcp://[fe80::2]:{port}", f"tcp://[fe80::/10]:{port}"):
        print(run(code, net_allow=[rule]).output.decode().split())
"""
WITHOUT_FAST_OPEN = """
import socket
sysctl("tcp_fastopen", "0")
with serve() as server, socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
    fill = [socket.socket() for _ in range(3)]
    for one in fill: one.setblocking(False); one.connect_ex(silent.getsockname())
    code = f'''
tell(tcp("127.0.0.1", {server.port})); tell(tcp("127.0.0.1", 1))
s = socket.socket(); s.setsockopt(1, 21, struct.pack("qq", 0, 300000))
start = time.monotonic(); tell(lambda: s.connect({silent.getsockname()})); print(time.monotonic() - start < 3)
print(struct.unpack("qq", s.getsockopt(1, 21, 16))[0], os.get_blocking(s.fileno()))
'''
    print(run(code, net_allow=["127.0.0.1"]).output)
"""
SYN = """
import socket
with serve() as server, socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as wire:
    wire.bind(("lo", 0x0800)); wire.settimeout(5)
    run(f"tell(tcp('127.0.0.1', {server.port}))", net_allow=["127.0.0.1"])
    while True:
        packet = wire.recv(2000); tcp = packet[(packet[0] & 15) * 4:]
        if int.from_bytes(tcp[2:4], "big") == server.port and tcp[13] & 2: break
    options, data = tcp[20:(tcp[12] >> 4) * 4], tcp[(tcp[12] >> 4) * 4:]
    kinds = []
    while options:
        kinds.append(options[0])
        options = options[1:] if options[0] < 2 else options[options[1]:]
    print(tcp[13], sorted(set(kinds)), data)
"""


def in_own_network(code: str) -> list[bytes]:
    """Run code in a network namespace of its own, where it may set what the host has set otherwise."""
    path = [os.path.dirname(__file__), *[one for one in sys.path if one]]
    code = OWN_NETWORK.format(path=path) + code
    argv = ["unshare", *(["-r"] if os.geteuid() else []), "-n", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    if b"unshare failed" in done.stderr or b"Operation not permitted" in done.stderr:
        lacks("user_namespace", "this host gives no network namespace")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_net_11_ping_needs_a_rule_that_names_icmp() -> None:
    assert in_own_network(PING) == [rb"b'8\nEPERM\n0\nECONNREFUSED\n'", b"[]"]


@pytest.mark.needs("command:ping")
def test_ping_as_people_use_it_needs_a_rule_for_icmp_alone() -> None:
    lines = in_own_network(REAL_PING.format(ping=program("ping")))
    assert lines[0] == b"0 True []"
    assert lines[1] in (b"0 True []", b"2 False []"), "2: this host has no IPv6"
    assert lines[2] == b"2 False ['icmp://127.0.0.2 is not allowed: --net-allow icmp://127.0.0.2']"


def test_what_ping_learns_its_address_by_reaches_nobody() -> None:
    told, seen = (ast.literal_eval(line.decode()) for line in in_own_network(PROBE))
    assert told[:3] == ["None", "127.0.0.1", "ENOTCONN"]
    assert set(told[3:6]) <= {"1", "ECONNREFUSED", "EINVAL"}
    assert told[6:] == ["EPERM", "ECONNREFUSED", "EACCES", "0"]
    assert seen == []


@pytest.mark.needs("ipv6")
@pytest.mark.needs("command:ip")
def test_net_04_a_link_local_address_is_reached_by_the_interface_that_was_named() -> None:
    lo, itself, another, network = (ast.literal_eval(line.decode()) for line in in_own_network(SCOPED))
    for told in (itself, another, network):
        assert told[:4] == told[4:], "the second time as the first"
        assert not any(word.isdigit() for word in told[1:4])
    assert itself[:2] == [str(lo), "ECONNREFUSED"]
    assert another[0] == another[2] == "ECONNREFUSED"
    assert network[0] == str(lo)


def test_not_12_where_fast_open_is_switched_off_a_connect_waits_in_a_thread() -> None:
    assert in_own_network(WITHOUT_FAST_OPEN) == [rb"b'HELLO\nECONNREFUSED\nEINPROGRESS\nTrue\n0 True\n'"]


def test_the_first_packet_of_a_connection_is_an_ordinary_one() -> None:
    """No Fast Open option (34) and no data: only what every connection begins with."""
    [line] = in_own_network(SYN)
    flags, _, rest = line.partition(b" ")
    assert flags == b"2"
    assert rest.endswith(b" b''")
    assert b"34" not in rest
    assert rest.startswith(b"[1, 2, 3, 4, 8]")


def test_two_sandboxes_do_not_reach_each_others_loopback_ports() -> None:
    port = free_port()
    import asyncio  # lazy: only here

    async def both() -> list[bytes]:
        server = f"""
s = socket.create_server(("127.0.0.1", {port})); s.settimeout(1.5)
try: s.accept(); print("reached")
except TimeoutError: print("nobody")
"""
        client = f"time.sleep(0.7); tell(tcp('127.0.0.1', {port}))"
        done = await asyncio.gather(
            asyncio.to_thread(run, server, Policy(net_allow_bind=[port])),
            asyncio.to_thread(run, client, Policy(net_allow_bind=[port])),
        )
        return [one.output for one in done]

    assert asyncio.run(both()) == [b"nobody\n", b"ECONNREFUSED\n"]


def test_the_program_is_a_plain_one() -> None:
    assert run("", argv=[PYTHON, "-c", "print(1)"], net_allow=["*"]).output == b"1\n"
