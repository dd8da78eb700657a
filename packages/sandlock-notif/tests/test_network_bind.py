"""Ports: which may be bound and listened on, and the sandbox's own port space."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from contextlib import closing

import pytest
from netlab import PRELUDE, denied, free_port, run, serve, tables_of
from supervision import PYTHON, TIMEOUT_S, Outcome
from supervision import serve as serve_tables

from sandlock_notif.dispatch import BoundPort
from sandlock_notif.handlers.network import network_filter_rules
from sandlock_policy import Policy

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

BIND = """
def bind(kind, port, host="127.0.0.1", family=socket.AF_INET):
    def work():
        s = socket.socket(family, kind); s.bind((host, port)); return "bound"
    return work
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
"""


def test_net_08_only_granted_ports_are_bound_by_either_protocol_and_family() -> None:
    granted, other = free_port(), free_port()
    code = (
        BIND
        + f"""
for port in ({granted}, {other}):
    tell(bind(TCP, port)); tell(bind(UDP, port)); tell(bind(TCP, port, "::1", socket.AF_INET6))
    tell(bind(TCP, port, "::ffff:127.0.0.1", socket.AF_INET6))
"""
    )
    outcome = run(code, net_allow_bind=[granted])
    assert outcome.output.split() == [b"bound"] * 3 + [b"bound"] + [b"EACCES"] * 4
    denials = [event for event in outcome.events if event.kind == "denied"]
    assert denials[0].reason.endswith(f"is not allowed: --net-allow-bind {other}")
    refused = run(code, net_deny_bind=[granted]).output.split()
    assert refused == [b"EACCES"] * 4 + [b"bound"] * 4


def test_listening_without_bind_needs_a_grant_for_any_port() -> None:
    code = """
def listen(bound):
    def work():
        s = socket.socket()
        if bound: s.bind(("127.0.0.1", 0))
        s.listen(); return "listens"
    return work
tell(listen(False)); tell(listen(True))
"""
    assert run(code, net_allow=["tcp://127.0.0.1"]).output.split() == [b"EACCES"] * 2
    assert run(code, net_allow_bind=[8080]).output.split() == [b"EACCES"] * 2
    assert run(code, net_allow_bind=["*"]).output.split() == [b"listens"] * 2
    assert run(code, net_allow_bind=[0]).output.split() == [b"listens"] * 2


def test_a_client_may_bind_any_port_and_is_no_server() -> None:
    with serve() as server:
        code = f"""
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.connect(("127.0.0.1", {server.port})); s.send(b"x"); print(s.recv(9))
"""
        assert run(code, net_allow=["tcp://127.0.0.1"]).output == b"b'X'\n"


def test_net_08_a_port_of_the_host_is_not_shared() -> None:
    with closing(socket.socket()) as host, closing(socket.socket(type=socket.SOCK_DGRAM)) as datagrams:
        for shared in (host, datagrams):
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        host.bind(("127.0.0.1", 0))
        host.listen()
        port = host.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        free = free_port()
        code = f"""
def share(kind, port, option):
    def work():
        made = []
        for _ in range(2):
            s = socket.socket(type=kind)
            if option: s.setsockopt(socket.SOL_SOCKET, option, 1)
            s.bind(("127.0.0.1", port)); made.append(s)
            if kind == socket.SOCK_STREAM: s.listen()
        return "shared"
    return work
tell(share(socket.SOCK_STREAM, {port}, socket.SO_REUSEPORT))
tell(share(socket.SOCK_DGRAM, {port}, socket.SO_REUSEPORT))
tell(share(socket.SOCK_DGRAM, {port}, socket.SO_REUSEADDR))
tell(share(socket.SOCK_STREAM, {port}, 0))
tell(share(socket.SOCK_DGRAM, {port}, 0))
tell(share(socket.SOCK_DGRAM, {free}, socket.SO_REUSEADDR))
tell(lambda: socket.create_server(("", {free})) and "server")
"""
        output = run(code, net_allow_bind=[port, free]).output.split()
        assert output == [b"ENOPROTOOPT"] * 2 + [b"EADDRINUSE"] * 3 + [b"shared", b"server"]


TOGGLE = """
import ctypes
libc = ctypes.CDLL(None)
one, zero = ctypes.c_int(1), ctypes.c_int(0)
def flip():
    while True:
        for value in (one, zero): libc.setsockopt(s.fileno(), 1, OPTION, ctypes.byref(value), 4)
s = socket.socket(type=KIND); threading.Thread(target=flip, daemon=True).start()
end = time.monotonic() + 3; got = "held"
while time.monotonic() < end and got == "held":
    try: s.bind(("127.0.0.1", PORT)); got = "stolen"
    except OSError as error: assert error.errno == errno.EADDRINUSE, error
print(got); sys.stdout.flush(); os._exit(0)
"""


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (socket.SOCK_STREAM, socket.SO_REUSEPORT),
        (socket.SOCK_DGRAM, socket.SO_REUSEPORT),
        (socket.SOCK_DGRAM, socket.SO_REUSEADDR),
    ],
)
def test_net_08_an_option_that_is_toggled_under_way_steals_no_port(kind: int, option: int) -> None:
    with closing(socket.socket(type=kind)) as host:
        host.setsockopt(socket.SOL_SOCKET, option, 1)
        host.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            host.listen()
        port = host.getsockname()[1]
        code = TOGGLE.replace("KIND", str(int(kind))).replace("OPTION", str(option)).replace("PORT", str(port))
        free = subprocess.run([PYTHON, "-I", "-S", "-c", PRELUDE + code], capture_output=True, check=True, timeout=60)
        assert free.stdout == b"stolen\n"  # without a sandbox it wins
        assert run(code, net_allow_bind=[port]).output == b"held\n"


def test_net_08_a_port_that_was_remapped_grants_the_next_socket_that_gets_it_nothing() -> None:
    with serve() as outside:
        code = f"""
s = socket.socket(); s.bind(("127.0.0.1", {outside.port}))
s.listen(); print(s.getsockname()[1] == {outside.port})
table = [line.split() for line in open("/proc/net/tcp")][1:]
real = int([row for row in table if row[9] == str(os.fstat(s.fileno()).st_ino)][0][1].partition(":")[2], 16)
s.close()
tries = 0; got = "never"
while tries < 200_000 and got == "never":
    n = socket.socket(); tries += 1
    n.bind(("127.0.0.1", 0))
    if n.getsockname()[1] in (real, {outside.port}):
        try: n.listen(); got = "listens"
        except OSError as error: got = errno.errorcode[error.errno]
    n.close()
print(got)
"""
        policy = Policy(net_allow_bind=[outside.port], port_remap=True)
        assert run(code, policy).output.split() == [b"True", b"EACCES"]


REMAP = """
server = socket.socket(); server.bind(("{host}", {port})); server.listen()
print(server.getsockname()[:2])
def answer():
    c, peer = server.accept()
    print(c.getsockname()[1], c.getpeername() == peer); c.sendall(b"mine"); c.close()
t = threading.Thread(target=answer); t.start()
c = socket.create_connection(("127.0.0.1", {port})); print(c.recv(9), c.getpeername()); t.join()
tell(lambda: socket.socket().bind(("127.0.0.1", {port})))
sys.stdout.flush()
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])  # noqa: S104
def test_a_taken_port_is_remapped_and_everything_inside_says_the_port_that_was_asked_for(host: str) -> None:
    with serve() as outside:
        port = outside.port
        policy = Policy(net_allow_bind=[port], port_remap=True)
        [table] = tables_of(policy)
        shown = host or "0.0.0.0"  # noqa: S104
        output = run(REMAP.format(host=host, port=port), policy, tables=(table,)).output.decode().splitlines()
        assert output == [
            f"('{shown}', {port})", f"{port} True", f"b'mine' ('127.0.0.1', {port})", "EADDRINUSE",
        ]  # fmt: skip
        assert outside.connections == 0


def test_two_sandboxes_bind_one_port_and_ports_tells_the_real_one() -> None:
    port = free_port()
    policy = Policy(net_allow_bind=[port], port_remap=True)
    first, second = (tables_of(policy)[0] for _ in range(2))
    holder = f"server = socket.create_server(('127.0.0.1', {port})); print('first', flush=True); time.sleep(1.5)"
    other = "time.sleep(0.3)" + REMAP.format(host="127.0.0.1", port=port) + "time.sleep(0.5)"
    seen: list[list[BoundPort]] = []

    async def look(*ignored: object) -> None:
        for _ in range(10):
            await asyncio.sleep(0.1)
            seen.append(list(second.ports()))

    async def both() -> list[Outcome]:
        rules = network_filter_rules(policy)
        argv = [PYTHON, "-I", "-S", "-c"]
        return list(
            await asyncio.gather(
                serve_tables([*argv, PRELUDE + holder], [first], rules),
                serve_tables([*argv, PRELUDE + other], [second], rules, look),
            )
        )

    outcomes = asyncio.run(asyncio.wait_for(both(), TIMEOUT_S))
    assert outcomes[0].output == b"first\n"
    assert outcomes[1].output.decode().splitlines()[2] == f"b'mine' ('127.0.0.1', {port})"
    found = [ports for ports in seen if ports]
    assert found
    [bound] = found[0]
    assert (bound.protocol, bound.inside) == ("tcp", port)
    assert bound.outside != port


PLAIN = """
tcp = socket.create_server(("127.0.0.1", {tcp})); any = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("127.0.0.1", {udp}))
client = socket.socket(); client.bind(("127.0.0.1", 0))
print(any.getsockname()[1], flush=True); any.accept(); tcp.close(); udp.close(); any.accept()
"""


def test_ports_lists_what_can_be_reached_and_forgets_what_was_closed() -> None:
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    policy = Policy(net_allow_bind=["*"])
    [table] = tables_of(policy)
    seen: list[set[tuple[str, int, int]]] = []

    async def look(*ignored: object) -> None:
        for count in (3, 1):
            bound: set[tuple[str, int, int]] = set()
            while len(bound) != count:
                await asyncio.sleep(0.02)
                bound = {(one.protocol, one.inside, one.outside) for one in table.ports()}
            seen.append(bound)
            [any_port] = {port for kind, port, _ in bound if kind == "tcp"} - {tcp}
            _, writer = await asyncio.open_connection("127.0.0.1", any_port)
            writer.close()

    argv = [PYTHON, "-I", "-S", "-c", PRELUDE + PLAIN.format(tcp=tcp, udp=udp)]
    work = serve_tables(argv, [table], network_filter_rules(policy), look)
    any_port = int(asyncio.run(asyncio.wait_for(work, TIMEOUT_S)).output)
    free = ("tcp", any_port, any_port)
    assert seen == [{("tcp", tcp, tcp), ("udp", udp, udp), free}, {free}]


def test_without_port_remap_a_taken_port_is_in_use() -> None:
    with serve() as outside:
        code = f"tell(lambda: socket.socket().bind(('127.0.0.1', {outside.port})))"
        outcome = run(code, net_allow_bind=[outside.port])
        assert outcome.output == b"EADDRINUSE\n"
        assert denied(outcome) == []
