"""What the tests of the network share: a program under a policy, servers on loopback, and what they saw."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from supervision import PYTHON, TIMEOUT_S, Outcome, supervise

from sandlock_notif import HandlerTable
from sandlock_notif.handlers.network import NetworkTable, network_filter_rules, network_tables
from sandlock_policy import Policy
from sandlock_policy.data.network_rules import NETWORK_GROUPS
from sandlock_sys import landlock

__all__ = ["PRELUDE", "Server", "denied", "free_port", "run", "serve", "tables_of"]

PRELUDE = """
import errno, os, socket, struct, sys, threading, time
def tell(work):
    try: print(work())
    except OSError as error: print(errno.errorcode[error.errno])
    sys.stdout.flush()
def tcp(host, port, family=socket.AF_INET):
    def work():
        with socket.socket(family) as s:
            s.connect((host, port)); s.sendall(b"hello"); return s.recv(100).decode()
    return work
def udp(host, port, family=socket.AF_INET):
    def work():
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.settimeout(5); s.sendto(b"hello", (host, port)); return s.recv(100).decode()
    return work
"""

ALL_FS = (1 << 13) - 1


@dataclass
class Server:
    """A server on loopback, outside: it answers each message by its upper case, and counts."""

    port: int
    connections: int = 0
    seen: list[bytes] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)  # cleared, it keeps its answers back

    def wait_for(self, count: int) -> list[bytes]:
        """Return what arrived, as soon as it is `count` messages, or after some seconds."""
        deadline = time.monotonic() + 5
        while len(self.seen) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.seen


@contextmanager
def serve(host: str = "127.0.0.1", kind: int = socket.SOCK_STREAM, port: int = 0) -> Iterator[Server]:
    """Serve until the block ends."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    server = Server(listener.getsockname()[1])
    server.may_answer.set()
    if kind == socket.SOCK_STREAM:
        listener.listen(256)
    thread = threading.Thread(target=_streams if kind == socket.SOCK_STREAM else _datagrams, args=(listener, server))
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR) if kind == socket.SOCK_STREAM else _wake(listener)
        thread.join()
        listener.close()


def _streams(listener: socket.socket, server: Server) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        server.connections += 1
        with connection, suppress(OSError):
            connection.settimeout(5)
            data = connection.recv(1 << 16)
            server.seen.append(data)
            connection.sendall(data.upper())


def _datagrams(listener: socket.socket, server: Server) -> None:
    while True:
        data, sender = listener.recvfrom(1 << 16)
        if data == b"the end":
            return
        server.seen.append(data)
        server.may_answer.wait(10)
        with suppress(OSError):
            listener.sendto(data.upper(), sender)


def _wake(listener: socket.socket) -> None:
    with socket.socket(listener.family, socket.SOCK_DGRAM) as last:
        last.sendto(b"the end", listener.getsockname())


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that nobody had a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def tables_of(policy: Policy, **more: Any) -> tuple[NetworkTable, ...]:
    """The tables of a policy, with host names resolved as given by `resolved`."""
    tables: Sequence[HandlerTable] = network_tables(policy, **more)
    assert all(isinstance(one, NetworkTable) for one in tables)
    return tuple(one for one in tables if isinstance(one, NetworkTable))


def run(
    code: str,
    policy: Policy | None = None,
    *,
    argv: Sequence[str] = (),
    tables: Sequence[HandlerTable] = (),
    writable: str = "",
    timeout_s: float = TIMEOUT_S,
    **fields: Any,
) -> Outcome:
    """Run Python code, or `argv`, under a policy whose network is served; with `writable` inside a Landlock domain."""
    chosen = policy if policy is not None else Policy(**fields)
    rules = [rule for name in ("fast_open", "socket_options") for rule in NETWORK_GROUPS[name].rules]
    grants = None
    if writable and landlock.abi_version():
        reading = 1 << 0 | 1 << 2 | 1 << 3
        grants = [(b"/", reading), (os.fsencode(writable), ALL_FS), (b"/dev/null", ALL_FS)]
    return supervise(
        argv or [PYTHON, "-I", "-S", "-c", PRELUDE + code],
        *(tables or tables_of(chosen)),
        rules=(*rules, *network_filter_rules(chosen)),
        grants=grants,
        cwd=writable,
        timeout_s=timeout_s,
    )


def denied(outcome: Outcome) -> list[tuple[str, object]]:
    """What was refused: (system call, flag that would allow it)."""
    return [(event.syscall, event.detail.get("flag")) for event in outcome.events if event.kind == "denied"]
