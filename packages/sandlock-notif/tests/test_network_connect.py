"""A program connects to what its policy names, and to nothing else; every spelling of an address counts."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from netlab import denied, free_port, run, serve, tables_of
from supervision import Outcome

from sandlock_policy import Policy

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

SPELLINGS = ["127.0.0.1", "0.0.0.0", "127.1", "0x7f000001"]  # noqa: S104
SPELLINGS_6 = ["::ffff:127.0.0.1", "::ffff:0.0.0.0"]


def test_net_02_an_allowed_endpoint_is_reached_and_another_port_is_refused_by_name() -> None:
    with serve() as allowed, serve() as other:
        code = f"tell(tcp('127.0.0.1', {allowed.port})); tell(tcp('127.0.0.1', {other.port}))"
        outcome = run(code, net_allow=[f"tcp://127.0.0.1:{allowed.port}"])
        assert outcome.output == b"HELLO\nECONNREFUSED\n"
        assert (allowed.connections, other.connections) == (1, 0)
    [(call, flag)] = denied(outcome)
    assert (call, flag) == ("connect", f"--net-allow tcp://127.0.0.1:{other.port}")


@pytest.mark.parametrize("spelling", [*SPELLINGS, *SPELLINGS_6])
def test_net_04_every_spelling_of_an_address_is_the_same_address(spelling: str) -> None:
    family = "socket.AF_INET6" if ":" in spelling else "socket.AF_INET"
    with serve() as server:
        code = f"tell(tcp({spelling!r}, {server.port}, {family}))"
        assert run(code, net_allow=[f"tcp://127.0.0.1:{server.port}"]).output == b"HELLO\n"
        assert run(code, net_allow=["tcp://192.0.2.77"]).output == b"ECONNREFUSED\n"
        assert run(code, net_allow=["tcp://*"], net_deny=["127.0.0.0/8"]).output == b"ECONNREFUSED\n"
        assert server.connections == 1


def test_net_04_ipv6_loopback_and_the_unspecified_address() -> None:
    with serve("::1") as server:
        code = "".join(f"tell(tcp({host!r}, {server.port}, socket.AF_INET6));" for host in ("::1", "::"))
        assert run(code, net_allow=[f"tcp://[::1]:{server.port}"]).output == b"HELLO\nHELLO\n"
        assert run(code, net_allow=["tcp://127.0.0.1"]).output == b"ECONNREFUSED\nECONNREFUSED\n"


def test_net_01_nothing_allowed_reaches_nothing_whatever_the_protocol() -> None:
    with serve() as stream, serve(kind=socket.SOCK_DGRAM) as datagram:
        code = f"tell(tcp('127.0.0.1', {stream.port})); tell(udp('127.0.0.1', {datagram.port}))"
        assert run(code, unix_allow=["/nowhere"]).output == b"EACCES\nEACCES\n"
        assert run(code, net_allow=["tcp://127.0.0.1", "udp://127.0.0.1"]).output == b"HELLO\nHELLO\n"
        assert (stream.connections, len(datagram.seen)) == (1, 1)


KINDS = [
    ("AF_INET", 1, 262), ("AF_INET", 1, 132), ("AF_INET", 1, 256), ("AF_INET", 2, 136), ("AF_INET", 3, 1),
    ("AF_INET", 3, 255), ("AF_INET6", 1, 262), ("AF_INET6", 2, 136), ("AF_PACKET", 3, 0), ("AF_VSOCK", 1, 0),
    ("AF_ALG", 5, 0), ("AF_NETLINK", 3, 4), ("AF_NETLINK", 3, 9), ("AF_NETLINK", 3, 15), ("AF_NETLINK", 3, 16),
]  # fmt: skip


@pytest.mark.parametrize(("family", "kind", "protocol"), KINDS)
def test_ll_10_ll_20_net_11_net_12_other_families_and_protocols_do_not_exist(
    family: str, kind: int, protocol: int
) -> None:
    code = f"""
tell(lambda: socket.socket(socket.{family}, {kind}, {protocol}) and 'made')
tell(lambda: socket.socket() and 'made')
"""
    first, control = run(code, net_allow=["*", "icmp://*"]).output.splitlines()
    assert first in (b"EACCES", b"EAFNOSUPPORT")
    assert control == b"made"


def test_ll_09_fast_open_is_refused_by_every_call() -> None:
    with serve() as server:
        code = f"""
address = ("127.0.0.1", {server.port})
for work in (
    lambda: socket.socket().sendto(b"x", 0x20000000, address),
    lambda: socket.socket().sendmsg([b"x"], [], 0x20000000, address),
    lambda: socket.socket().setsockopt(6, 30, 1),
    lambda: socket.socket().connect(address),
): tell(work)
"""
        refused = run(code, net_allow=["127.0.0.2"]).output.split()
        assert refused == [b"ENOTSUP", b"ENOTSUP", b"EPERM", b"ECONNREFUSED"]
        assert server.connections == 0
        assert run(code, net_allow=["127.0.0.1"]).output.split() == [b"ENOTSUP", b"ENOTSUP", b"EPERM", b"None"]


def test_af_unspec_dissolves_a_connection_and_the_next_one_is_judged_again() -> None:
    with serve(kind=socket.SOCK_DGRAM) as allowed, serve(kind=socket.SOCK_DGRAM) as other:
        code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(type=socket.SOCK_DGRAM)
s.connect(("127.0.0.1", {allowed.port}))
assert libc.connect(s.fileno(), bytes(16), 16) == 0
tell(s.getpeername)
tell(lambda: s.connect(("127.0.0.1", {other.port})))
tell(lambda: s.send(b"x"))
s.connect(("127.0.0.1", {allowed.port})); s.send(b"y")
"""
        outcome = run(code, net_allow=[f"udp://127.0.0.1:{allowed.port}"])
        assert outcome.output == b"ENOTCONN\nECONNREFUSED\nEDESTADDRREQ\n"
        deadline = time.monotonic() + 5
        while not allowed.seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (allowed.seen, other.seen) == ([b"y"], [])


def test_a_non_blocking_connect_is_in_progress_and_ends_writable() -> None:
    with serve() as server:
        code = f"""
import select
for port in ({server.port}, {free_port()}):
    s = socket.socket(); s.setblocking(False)
    print(errno.errorcode.get(s.connect_ex(("127.0.0.1", port)), 0), end=" ")
    select.select([], [s], [], 5)
    print(errno.errorcode.get(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0))
"""
        assert run(code, net_allow=["tcp://127.0.0.1"]).output == b"EINPROGRESS 0\nEINPROGRESS ECONNREFUSED\n"


def silent() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose backlog is full: what connects to it waits."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fill = [socket.socket() for _ in range(3)]
    for one in fill:
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
    time.sleep(0.1)
    return listener, fill


def test_not_12_a_connect_that_waits_keeps_its_flag_and_ends_with_sndtimeo() -> None:
    listener, fill = silent()
    code = f"""
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 0, 300000))
flags = []
def look():
    for _ in range(40):
        flags.append(os.get_blocking(s.fileno())); time.sleep(0.005)
watch = threading.Thread(target=look)
watch.start()
start = time.monotonic()
tell(lambda: s.connect(("127.0.0.1", {listener.getsockname()[1]})))
print(0.25 < time.monotonic() - start < 3)
watch.join()
print(set(flags))
"""
    outcome = run(code, net_allow=["tcp://127.0.0.1"])
    assert outcome.output == b"EINPROGRESS\nTrue\n{True}\n"
    for one in (listener, *fill):
        one.close()


def test_not_12_a_signal_interrupts_a_connect_and_the_error_stays_for_the_program() -> None:
    listener, fill = silent()
    code = f"""
import signal
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop); signal.setitimer(signal.ITIMER_REAL, 0.2)
s = socket.socket()
start = time.monotonic()
try: s.connect(("127.0.0.1", {listener.getsockname()[1]}))
except Stop: print("interrupted", time.monotonic() - start < 3)
tell(lambda: s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
"""
    assert run(code, net_allow=["tcp://127.0.0.1"]).output == b"interrupted True\n0\n"
    for one in (listener, *fill):
        one.close()


def test_not_12_two_hundred_waiting_connects_do_not_delay_another_sandbox() -> None:
    listener, fill = silent()
    flood = f"""
import signal
for _ in range(4):
    if os.fork() == 0:
        def work():
            s = socket.socket()
            try: s.connect(("127.0.0.1", {listener.getsockname()[1]}))
            except OSError: pass
        for _ in range(50): threading.Thread(target=work, daemon=True).start()
        time.sleep(3); os._exit(0)
time.sleep(2.5); print("flooded")
"""
    with serve() as server:
        quick = f"""
time.sleep(1)
times = []
for _ in range(100):
    start = time.monotonic(); tcp("127.0.0.1", {server.port})(); times.append(time.monotonic() - start)
print(sorted(times)[50] < 0.05, max(times) < 0.5)
"""

        async def both() -> list[Outcome]:
            def one(code: str, policy: Policy) -> Outcome:
                return run(code, policy)

            policy = Policy(net_allow=["tcp://127.0.0.1"])
            return list(
                await asyncio.gather(asyncio.to_thread(one, flood, policy), asyncio.to_thread(one, quick, policy))
            )

        first, second = asyncio.run(both())
    assert first.output.endswith(b"flooded\n")
    assert second.output == b"True True\n"
    for one in (listener, *fill):
        one.close()


def test_a_name_is_what_it_resolved_to_at_the_start() -> None:
    with serve("127.0.0.7") as server:
        code = f"tell(tcp('127.0.0.7', {server.port})); tell(tcp('127.0.0.8', {server.port}))"
        listed = Policy(net_allow=["tcp://service.example", "tcp://127.0.0.7"])
        tables = tables_of(listed, resolved={"service.example": ("127.0.0.7",)})
        assert run(code, listed, tables=tables).output == b"HELLO\nECONNREFUSED\n"


def test_the_sandbox_reaches_its_own_loopback_ports_and_not_those_of_the_host() -> None:
    port = free_port()
    with serve() as outside:
        code = f"""
server = socket.create_server(("127.0.0.1", {port}))
threading.Thread(target=lambda: server.accept()[0].sendall(b"inside"), daemon=True).start()
tell(tcp("127.0.0.1", {port}))
server.close()
tell(tcp("127.0.0.1", {port}))
tell(tcp("127.0.0.1", {outside.port}))
"""
        outcome = run(code, net_allow_bind=[port], net_allow=["tcp://192.0.2.1"])
        assert outcome.output == b"inside\nECONNREFUSED\nECONNREFUSED\n"
        assert outside.connections == 0
        assert [flag for _, flag in denied(outcome)] == [f"--net-allow tcp://127.0.0.1:{outside.port}"]


def test_a_port_that_was_ours_and_is_the_hosts_now_is_not_reached() -> None:
    port = free_port()
    with serve(kind=socket.SOCK_DGRAM) as word:
        code = f"""
server = socket.create_server(("127.0.0.1", {port})); server.close()
out = socket.socket(type=socket.SOCK_DGRAM); out.connect(("127.0.0.1", {word.port}))
out.send(b"closed"); out.recv(100)
tell(tcp("127.0.0.1", {port}))
"""
        policy = Policy(net_allow_bind=[port], net_allow=[f"udp://127.0.0.1:{word.port}"])
        word.may_answer.clear()

        async def both() -> bytes:
            inside = asyncio.create_task(asyncio.to_thread(run, code, policy))
            await asyncio.to_thread(word.wait_for, 1)
            with serve(port=port) as server:
                word.may_answer.set()
                output = (await inside).output
                assert server.connections == 0
                return output

        assert asyncio.run(asyncio.wait_for(both(), 30)) == b"ECONNREFUSED\n"
