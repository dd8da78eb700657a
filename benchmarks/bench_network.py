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
from typing import Any

from measure import Row, paired, report

from sandlock import Policy, Sandbox

HERE = Path(__file__).parent
ROUNDS = 5
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


def datagrams(program: str) -> list[Row]:
    """Datagrams with a name, to a socket that nobody reads."""
    with socket.socket(type=socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        port = sink.getsockname()[1]
        argv = [program, "udp", str(port), "30000"]
        policy = allowing(str(Path(program).parent), net_allow=[f"udp://127.0.0.1:{port}"])
        return [against_bare("sendto, UDP with a name", argv, policy)]


def redis() -> list[Row]:
    """redis-benchmark: the client inside, then the server inside; time for as many requests, so less is better."""
    server, client = shutil.which("redis-server"), shutil.which("redis-benchmark")
    if server is None or client is None:
        return []
    port, own = free_port(), free_port()
    quiet = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", "/"]
    ask = [client, "-t", "set,get", "-n", "60000", "-c", "20", "-q", "-p"]
    rows = []

    def timed(action: Callable[[], object]) -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    def bench(target: int) -> float:
        argv = [*ask, str(target)]
        return timed(lambda: subprocess.run(argv, capture_output=True, check=True, start_new_session=True))

    with subprocess.Popen([server, "--port", str(port), *quiet], stdout=subprocess.DEVNULL) as outside:
        time.sleep(0.5)
        policy = allowing(net_allow=[f"127.0.0.1:{port}"])
        pairs = [(timed(lambda: Sandbox(policy).run([*ask, str(port)]).check()), bench(port)) for _ in range(ROUNDS)]
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


def _row(name: str, pairs: list[tuple[float, float]]) -> Row:
    return paired(name, "bare", pairs, 1 / 0.97)


def main() -> None:
    """Measure everything in one run."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program, floor = compiled(folder, "network_calls"), compiled(folder, "served_calls")
        rows = connects(program, floor)
        rows += datagrams(program)
        with echoing() as port:
            argv = [program, "send", str(port), "20000"]
            policy = allowing(folder, net_allow=[f"127.0.0.1:{port}"])
            rows.append(against_bare("write and read on a connection", argv, policy, 1 / 0.97))
        rows += redis()
    report("Network", rows)


if __name__ == "__main__":
    main()
