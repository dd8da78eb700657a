"""What the network costs inside: a connect, a datagram, data on a connection, redis as client and as server.

Every figure is against the same program bare, in turns. A connect is also set against its floor: one notification
served by a loop in C, and a bare connect.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from measure import Fact, Row, paired, report

from sandlock import Policy, Sandbox

HERE = Path(__file__).parent
ROUNDS = 9
REQUESTS = 40_000
Numbers = Callable[[Sequence[str]], float]


def compiled(folder: str, name: str) -> str:
    """Compile a C program of this folder."""
    program = str(Path(folder, name))
    subprocess.run([shutil.which("cc") or "gcc", "-O2", "-o", program, str(HERE / f"{name}.c")], check=True)
    return program


@contextlib.contextmanager
def echoing() -> Iterator[int]:
    """A TCP server on loopback that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextlib.contextmanager
def draining() -> Iterator[int]:
    """A TCP listener whose connections are accepted and dropped by a process of its own; no thread of ours is in it."""
    code = (
        "import socket\nl = socket.create_server(('127.0.0.1', 0), backlog=4096)\n"
        "print(l.getsockname()[1], flush=True)\n"
        "while True: l.accept()[0].close()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def bare(argv: Sequence[str]) -> float:
    """The number that a program prints, run outside; in a session of its own, which the scheduler weighs apart."""
    done = subprocess.run(argv, capture_output=True, check=True, text=True, start_new_session=True)
    return float(done.stdout)


def inside(policy: Policy) -> Numbers:
    """The number that a program prints, run under a policy."""

    def measure(argv: Sequence[str]) -> float:
        return float(Sandbox(policy).run(argv).check().stdout)

    return measure


def allowing(folder: str = "/usr", **fields: Any) -> Policy:
    """A policy that lets programs of the system and of `folder` run."""
    return Policy(fs_readable=["/usr", "-/lib", "-/lib64", "/etc", folder], **fields)


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def against_bare(name: str, argv: Sequence[str], policy: Policy, budget: float | None = None) -> Row:
    """Compare nanoseconds per call, inside against bare."""
    pairs = [(inside(policy)(argv), bare(argv)) for _ in range(ROUNDS)]
    return paired(name, "bare", [(mine / 1e9, other / 1e9) for mine, other in pairs], budget)


def connects(program: str, floor: str) -> list[Row]:
    """A connect on behalf, against bare and against its floor."""
    with draining() as port:
        argv = [program, "connect", str(port), "3000"]
        policy = allowing(str(Path(program).parent), net_allow=[f"tcp://127.0.0.1:{port}"])
        pairs = []
        for _ in range(ROUNDS):
            mine, other = inside(policy)(argv), bare(argv)
            pairs.append((mine, other, other + bare([floor, "floor", "20000"])))
    rows = []
    for base, index, budget in (("bare", 1, None), ("floor: a notification in C + bare", 2, 3.0)):
        rows.append(paired("connect", base, [(pair[0] / 1e9, pair[index] / 1e9) for pair in pairs], budget))
    return rows


def datagrams(program: str) -> tuple[Row, Fact]:
    """Datagrams with a name, to a socket that nobody reads: 50,000 a second are wanted."""
    with socket.socket(type=socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        port = sink.getsockname()[1]
        argv = [program, "udp", str(port), "30000"]
        policy = allowing(str(Path(program).parent), net_allow=[f"udp://127.0.0.1:{port}"])
        pairs = [(inside(policy)(argv) / 1e9, bare(argv) / 1e9) for _ in range(ROUNDS)]
    mine = sorted(one * 1e6 for one, _ in pairs)
    fact = Fact("a datagram with a name takes", round(median(mine), 1), "us", round(mine[0], 1), round(mine[-1], 1), 20)
    return paired("sendto, UDP with a name", "bare", pairs), fact


def redis() -> list[Row]:
    """redis-benchmark: the client inside, then the server inside; seconds for its requests by its own count."""
    server, client = shutil.which("redis-server"), shutil.which("redis-benchmark")
    if server is None or client is None:
        return []
    port, own = free_port(), free_port()
    quiet = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", "/"]
    ask = [client, "-t", "set,get", "-n", str(REQUESTS), "-c", "20", "--csv", "-p"]
    rows = []

    def bench(target: int) -> float:
        return _spent(
            subprocess.run([*ask, str(target)], capture_output=True, check=True, start_new_session=True).stdout
        )

    with subprocess.Popen([server, "--port", str(port), *quiet], stdout=subprocess.DEVNULL) as outside:
        time.sleep(0.5)
        policy = allowing(net_allow=[f"127.0.0.1:{port}"])
        client_in = Sandbox(policy)
        pairs = [(_spent(client_in.run([*ask, str(port)]).check().stdout), bench(port)) for _ in range(ROUNDS)]
        rows.append(_row("redis-benchmark inside, with an address allow list", pairs))
        holding = Sandbox(allowing(net_allow_bind=[own], net_allow=["192.0.2.1"]))
        thread = threading.Thread(target=lambda: holding.run([server, "--port", str(own), *quiet]))
        thread.start()
        time.sleep(1)
        pairs = [(bench(own), bench(port)) for _ in range(ROUNDS)]
        rows.append(_row("redis-server inside", pairs))
        subprocess.run([shutil.which("redis-cli") or "", "-p", str(own), "shutdown", "nosave"], check=False)
        thread.join()
        outside.terminate()
    return rows


def _spent(told: bytes) -> float:
    """Return the seconds that all requests took, from the requests a second that are told of each kind."""
    rates = [line.split(",")[1].strip('"') for line in told.decode().splitlines() if '"rps"' not in line]
    return sum(REQUESTS / float(rate) for rate in rates)


def _row(name: str, pairs: list[tuple[float, float]]) -> Row:
    return paired(name, "bare", pairs, 1 / 0.97)


def main() -> None:
    """Measure everything in one run."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program, floor = compiled(folder, "network_calls"), compiled(folder, "served_calls")
        rows = connects(program, floor)
        datagram, fact = datagrams(program)
        rows.append(datagram)
        with echoing() as port:
            argv = [program, "send", str(port), "20000"]
            policy = allowing(folder, net_allow=[f"127.0.0.1:{port}"])
            rows.append(against_bare("write and read on a connection", argv, policy, 1 / 0.97))
        rows += redis()
    report("Network", rows, [fact])


if __name__ == "__main__":
    main()
