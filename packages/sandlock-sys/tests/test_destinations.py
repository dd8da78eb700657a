"""Sockets reach known destinations by a shortcut, on copies that were taken once; all else is returned."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from sandlock_sys import notif, pidfd, prctl, seccomp
from sandlock_sys.constants.seccomp import Action, FilterFlag
from sandlock_sys.destinations import Destinations
from sandlock_sys.shortcut import Kind, Row, Shortcut

pytestmark = [
    pytest.mark.usefixtures("leaks"),
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
]

X86 = os.uname().machine == "x86_64"
CONNECT, SENDTO = (42, 44) if X86 else (203, 206)
AUDIT_ARCH = 0xC000003E if X86 else {"aarch64": 0xC00000B7, "riscv64": 0xC00000F3}.get(os.uname().machine, 0)
RETURNED = errno.EXFULL
NONE = "EXFULL"


def inet(port: int, last: int = 1) -> bytes:
    return socket.AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + bytes([127, 0, 0, last]) + bytes(8)


@pytest.fixture
def serve(filter_for: Any, child: Any, numbers: dict[str, int]) -> Callable[..., tuple[list[str], int]]:
    """`serve(call, works, known)`: what each work in the child came to, and how many calls were served."""
    numbers.update(connect=CONNECT, sendto=SENDTO)

    def run(call: str, works: list[Callable[[], object]], known: Destinations) -> tuple[list[str], int]:
        reader, writer = os.pipe()

        def in_child() -> None:
            prctl.set_no_new_privs()
            listener = seccomp.set_mode_filter(filter_for(call, Action.USER_NOTIF), FilterFlag.NEW_LISTENER)
            os.write(writer, b"%d\n" % listener)
            for work in works:
                try:
                    told = str(work())
                except OSError as error:
                    told = errno.errorcode[error.errno or 0]
                os.write(writer, told.encode() + b"\n")

        with child(in_child) as pid, os.fdopen(reader, "r", buffering=1) as stream:
            os.close(writer)
            process = pidfd.open_pidfd(pid)
            listener = pidfd.getfd(process, int(stream.readline()))
            os.close(process)
            shortcut = Shortcut(
                listener, AUDIT_ARCH, {CONNECT: Row(Kind.CONNECT), SENDTO: Row(Kind.SENDTO)},
                wait_ns=1_000_000, blocked_ns=0, privileged=os.geteuid() == 0,
            )  # fmt: skip
            try:
                shortcut.allow(1000)
                shortcut.fresh()
                shortcut.reach(known)
                exchange = notif.Exchange(listener)
                exchange.use(shortcut)
                fields = exchange.take(100_000_000)
                while not exchange.hung_up:
                    if fields is None:
                        fields = exchange.take(100_000_000)
                    else:
                        fields = exchange.answer_and_take(fields[0], 0, RETURNED, 0, 100_000_000)
                told = stream.read().split()
            finally:
                known.close()
                os.close(listener)
        return told, shortcut.served

    return run


def test_a_stream_gets_to_what_is_known_and_nowhere_else(serve: Callable[..., tuple[list[str], int]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port, others = server.getsockname()[1], other.getsockname()[1]
        known = Destinations()
        known.add(inet(port), inet(port), domain=socket.AF_INET)
        known.add(inet(port, 2), inet(port), domain=socket.AF_INET)  # led elsewhere: what is packed is what counts

        def to(host: str, number: int, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> object:
            with socket.socket(family, kind) as client:
                client.connect((host, number))
                return client.getpeername()[:2] == ("127.0.0.1", port)

        works = [
            lambda: to("127.0.0.1", port), lambda: to("127.0.0.2", port), lambda: to("127.0.0.1", others),
            lambda: to("127.0.0.3", port), lambda: to("127.0.0.1", port, kind=socket.SOCK_DGRAM),
            lambda: to("::ffff:127.0.0.1", port, socket.AF_INET6),
        ]  # fmt: skip
        assert serve("connect", works, known) == (["True", "True", NONE, NONE, NONE, NONE], 2)
        known.clear()
        assert serve("connect", works[:1], known) == ([NONE], 0)


def test_a_datagram_is_sent_by_the_known_socket_alone(serve: Callable[..., tuple[list[str], int]]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sink, socket.socket(type=socket.SOCK_DGRAM) as own:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(10)
        to = sink.getsockname()
        known = Destinations()
        cookie = int.from_bytes(own.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE
        known.add(inet(to[1]), inet(to[1]), domain=socket.AF_INET, cookie=cookie)

        def by_another() -> object:
            with socket.socket(type=socket.SOCK_DGRAM) as other:
                return other.sendto(b"other", to)

        works = [
            lambda: own.sendto(b"first", to), by_another, lambda: own.sendto(b"x", ("127.0.0.2", to[1])),
            lambda: own.sendto(b"x" * 16385, to), lambda: own.sendto(b"y" * 16384, to),
            lambda: own.sendto(b"x", 0x20000000, to),  # MSG_FASTOPEN
        ]  # fmt: skip
        assert serve("sendto", works, known) == (["5", NONE, NONE, NONE, "16384", NONE], 2)
        assert [sink.recv(1 << 16), sink.recv(1 << 16)] == [b"first", b"y" * 16384]


def test_there_is_room_for_some_and_the_latest_are_kept() -> None:
    known = Destinations()
    for port in range(1, 5000):
        known.add(inet(port), inet(port), domain=socket.AF_INET)
    entries = [entry for group in known.memory.entries for entry in group]
    assert all(entry.name_size == 16 for entry in entries)
    assert len({bytes(entry.name) for entry in entries}) == len(entries) == 128
    assert inet(4999) in {bytes(entry.name)[:16] for entry in entries}
    known.add(b"", b"", domain=2)
    known.add(bytes(29), bytes(29), domain=2)
    known.clear()
    assert not any(entry.name_size for group in known.memory.entries for entry in group)
