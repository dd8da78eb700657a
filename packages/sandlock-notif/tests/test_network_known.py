"""What leads where it led before is reached without the interpreter, exactly as with it; all else is asked about."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable

import pytest
from netlab import PRELUDE, denied, run, serve, tables_of
from supervision import PYTHON, Outcome, Table, supervise

from sandlock_notif import Request, Trap, Value
from sandlock_notif.handlers.network import network_filter_rules
from sandlock_policy import Policy

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

TRIES = 50
UDP = socket.SOCK_DGRAM


def shortly(outcome: Outcome) -> int:
    """How many calls were served without the interpreter."""
    assert outcome.supervisor is not None
    return outcome.supervisor.shortly


def test_most_connects_and_datagrams_are_served_without_being_asked_about() -> None:
    with serve() as stream, serve(kind=UDP) as datagrams:
        code = f"""
s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(5)
for n in range({TRIES}):
    data = b"%d" % n * (n + 1)
    s.sendto(data, ("127.0.0.1", {datagrams.port})); assert s.recv(999) == data
work = tcp("127.0.0.1", {stream.port})
for _ in range({TRIES}): assert work() == "HELLO"
print("done")
"""
        outcome = run(code, net_allow=["127.0.0.1"])
        assert outcome.output == b"done\n"
        assert (stream.connections, len(datagrams.seen)) == (TRIES, TRIES)
    assert shortly(outcome) >= 2 * (TRIES - 1)
    assert outcome.supervisor is not None
    answered = outcome.supervisor.answered()
    assert answered["connect"] == TRIES
    assert answered["sendto"] == TRIES
    assert sum(answered.values()) == outcome.supervisor.served


def test_what_was_not_written_like_that_before_is_judged() -> None:
    """Neither a known port nor a known address, nor the length, makes another name known."""
    with serve() as stream, serve(kind=UDP) as datagrams, serve() as other, serve(kind=UDP) as others:
        code = f"""
s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(5)
for n in range({TRIES}):
    tell(tcp("127.0.0.1", {stream.port})); tell(tcp("127.0.0.1", {other.port})); tell(tcp("127.0.0.2", {stream.port}))
    tell(lambda: s.sendto(b"x", ("127.0.0.1", {datagrams.port})))
    tell(lambda: s.sendto(b"x", ("127.0.0.1", {others.port})))
"""
        allowed = [f"tcp://127.0.0.1:{stream.port}", f"udp://127.0.0.1:{datagrams.port}"]
        outcome = run(code, net_allow=allowed)
        expected = ["HELLO", "ECONNREFUSED", "ECONNREFUSED", "1", "EPERM"]
        assert outcome.output.decode().split() == expected * TRIES
        assert (stream.connections, other.connections) == (TRIES, 0)
        assert others.seen == []
    assert len(denied(outcome)) == 2 * TRIES, "each is told, but where nobody listens"
    assert shortly(outcome) >= 2 * (TRIES - 1)


ERRORS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
raw = struct.pack("=H", 2) + struct.pack("!H4s8x", PORT, bytes([127, 0, 0, 1]))
mapped = struct.pack("=H", 10) + struct.pack("!HI10s6sI", PORT, 0, b"", bytes([255, 255, 127, 0, 0, 1]), 0)
def connect(fd, name=raw): print(libc.connect(fd, name, len(raw)) and errno.errorcode[ctypes.get_errno()])
for _ in range(3):
    tell(lambda: socket.socket().connect(("127.0.0.1", CLOSED)))
    s = socket.socket(); connect(s.fileno()); connect(s.fileno())
    s = socket.socket(); s.setblocking(False)
    print(s.connect_ex(("127.0.0.1", PORT)) in (0, errno.EINPROGRESS), os.get_blocking(s.fileno()))
    six = socket.socket(socket.AF_INET6); connect(six.fileno()); connect(six.fileno(), mapped)
    tell(lambda: socket.socket(socket.AF_INET6).connect(("::ffff:127.0.0.1", PORT)))
    connect(99); connect(0); connect(s.fileno(), ctypes.c_void_p(8))
u = socket.socket(type=socket.SOCK_DGRAM)
for size in (1, 0, 9000, 20000, 65507, 65508, 60000):
    for flags in (0, socket.MSG_DONTWAIT, socket.MSG_CONFIRM, socket.MSG_OOB):
        tell(lambda: u.sendto(bytes(size), flags, ("127.0.0.1", SINK)))
tell(lambda: u.sendto(b"x", ("127.0.0.1", 0))); tell(lambda: u.sendto(b"x", ("127.0.0.1", 0)))
u = socket.socket(type=socket.SOCK_DGRAM); u.connect(("127.0.0.1", SINK))
for _ in range(3): tell(lambda: u.sendto(b"x", ("127.0.0.1", SINK)))
u = socket.socket(type=socket.SOCK_DGRAM)
u.sendto(b"x", ("127.0.0.1", CLOSED)); u.setsockopt(0, 11, 1)  # IP_RECVERR: the next one is told of the last
u.sendto(b"x", ("127.0.0.1", CLOSED)); tell(lambda: u.sendto(b"x", ("127.0.0.1", CLOSED)))
"""


def test_errors_are_those_of_the_kernel_whoever_asked_it() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as open_, socket.create_server(("127.0.0.1", 0)) as closing,
        socket.socket(type=UDP) as sink,
    ):  # fmt: skip
        sink.bind(("127.0.0.1", 0))
        closed = closing.getsockname()[1]
        closing.close()
        code = ERRORS.replace("PORT", str(open_.getsockname()[1])).replace("CLOSED", str(closed))
        code = code.replace("SINK", str(sink.getsockname()[1]))
        bare = subprocess.run([PYTHON, "-I", "-S", "-c", PRELUDE + code], capture_output=True, check=True)
        outcome = run(code, net_allow=["127.0.0.1"])
    assert outcome.output.splitlines() == bare.stdout.splitlines()
    assert {b"ECONNREFUSED", b"EISCONN", b"EBADF", b"ENOTSOCK", b"EFAULT", b"EMSGSIZE"} <= set(bare.stdout.split())
    assert shortly(outcome) > 20


def test_a_known_destination_that_does_not_answer_is_waited_for_as_ever() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        code = f"""
peer = {silent.getsockname()}
first = socket.socket(); first.connect(peer)
fill = [socket.socket() for _ in range(3)]
for one in fill: one.setblocking(False); one.connect_ex(peer)
s = socket.socket(); s.setsockopt(1, 21, struct.pack("qq", 0, 200000))
start = time.monotonic(); tell(lambda: s.connect(peer)); print(0.1 < time.monotonic() - start < 10)
print(os.get_blocking(s.fileno()))
"""
        outcome = run(code, net_allow=["127.0.0.1"])
    assert outcome.output.decode().split() == ["EINPROGRESS", "True", "True"]


def test_threads_and_processes_that_come_and_go_are_told_apart() -> None:
    """More of them than fds are kept for; the numbers of the dead meet those of the living in one place."""
    before = len(os.listdir("/proc/self/fd"))
    with serve() as server:
        code = f"""
work = tcp("127.0.0.1", {server.port})
for _ in range(40):
    pid = os.fork()
    if pid == 0: os._exit(work() != "HELLO")
    assert os.wait()[1] == 0
done = []
def many():
    for _ in range(5): done.append(work())
threads = [threading.Thread(target=many) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
print(len(done), set(done))
"""
        outcome = run(code, net_allow=["127.0.0.1"])
    assert outcome.output == b"40 {'HELLO'}\n"
    assert shortly(outcome) > 40
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_datagram_socket_is_known_by_itself() -> None:
    """What one of them was let do says nothing of another: that it is the sandbox's own has to be noted first."""
    with serve(kind=UDP) as server:
        code = f"""
for _ in range({TRIES}):
    with socket.socket(type=socket.SOCK_DGRAM) as s: s.sendto(b"x", ("127.0.0.1", {server.port}))
own = socket.socket(type=socket.SOCK_DGRAM); own.bind(("127.0.0.1", 0))
own.sendto(b"x", ("127.0.0.1", {server.port}))
other = socket.socket(type=socket.SOCK_DGRAM); other.sendto(b"to myself", own.getsockname())
print(sorted([own.recv(99), own.recv(99)]))
"""
        outcome = run(code, net_allow=[f"udp://127.0.0.1:{server.port}"])
        assert outcome.output == b"[b'X', b'to myself']\n"
        assert len(server.wait_for(TRIES + 1)) == TRIES + 1
    assert shortly(outcome) == 0


@pytest.mark.parametrize(
    "policy",
    [
        Policy(net_allow=["127.0.0.1"], net_allow_bind=["*"], port_remap=True),
        Policy(net_allow=["127.0.0.1", "*.example.org"]),
        Policy(net_allow=["127.0.0.1"], net_refresh=True),
    ],
    ids=["remapped", "wildcard", "refreshed"],
)
def test_where_a_name_may_mean_something_else_later_each_call_is_judged(policy: Policy) -> None:
    with serve() as server:
        outcome = run(f"for _ in range(5): tell(tcp('127.0.0.1', {server.port}))", policy)
    assert outcome.output.split() == [b"HELLO"] * 5
    assert shortly(outcome) == 0


def test_an_intercepted_port_is_never_reached_directly() -> None:
    taken: list[tuple[str, int]] = []

    def intercept(connection: socket.socket, destination: tuple[str, int]) -> None:
        taken.append(destination)
        connection.close()

    policy = Policy(net_allow=["127.0.0.1"], http_allow=["GET 127.0.0.1/*"])
    code = "for _ in range(5):\n with socket.socket() as s: s.connect(('127.0.0.1', 80))"
    outcome = run(code, policy, tables=tables_of(policy, intercept=intercept))
    assert taken == [("127.0.0.1", 80)] * 5
    assert shortly(outcome) == 0


def test_what_a_callback_takes_away_is_known_no_more() -> None:
    policy = Policy(net_allow=["127.0.0.1"])
    [table] = tables_of(policy)
    steps: list[Callable[[], None]] = [
        lambda: table.controls()["restrict_network"](("192.0.2.1/32",)),
        lambda: table.controls()["grant_network"](("127.0.0.1/32",)),
    ]

    def step(_: Request) -> Value:
        steps.pop(0)()
        return Value(1)

    with serve() as stream, serve(kind=UDP) as datagrams:
        code = f"""
s = socket.socket(type=socket.SOCK_DGRAM)
def both():
    tell(tcp("127.0.0.1", {stream.port})); tell(lambda: s.sendto(b"x", ("127.0.0.1", {datagrams.port})))
both(); both(); os.getppid(); both(); both(); os.getppid(); both()
"""
        asked = Table((Trap("getppid", step, "a test asks"),))
        argv = [PYTHON, "-I", "-S", "-c", PRELUDE + code]
        outcome = supervise(argv, asked, table, rules=network_filter_rules(policy))
        assert outcome.output.decode().split() == ["HELLO", "1"] * 2 + ["ECONNREFUSED", "EPERM"] * 2 + ["HELLO", "1"]
        assert len(datagrams.wait_for(3)) == 3
    assert shortly(outcome) == 2


def test_whoever_comes_first_is_asked_about_every_call() -> None:
    seen: list[int] = []
    policy = Policy(net_allow=["127.0.0.1"])

    def handle(request: Request) -> None:
        seen.append(request.nr)

    with serve() as server:
        code = f"for _ in range(5): tell(tcp('127.0.0.1', {server.port}))"
        asks = Table((Trap("connect", handle, "a test asks"),))
        outcome = run(code, policy, tables=(asks, *tables_of(policy)))
    assert outcome.output.split() == [b"HELLO"] * 5
    assert (len(seen), shortly(outcome)) == (5, 0)
