"""Programs that people use, inside, under rules by address alone: what is listed they reach, and nothing else."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sandlock import Result, Sandbox
from sandlock_testkit.servers import wait_for_server

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/etc/hosts", "-/etc/nsswitch.conf", "-/etc/passwd"]
SYSTEM += ["-/etc/group", "-/etc/ssl", "-/etc/postgresql-common", "/dev/urandom", "-/etc/alternatives"]


def inside(allowed: list[str], *argv: str, **fields: Any) -> Result:
    """Run a program that may reach what is allowed."""
    more = fields.pop("fs_readable", [])
    policy: dict[str, Any] = {"fs_readable": [*SYSTEM, *more], "fs_writable": ["/dev/null"], "net_allow": allowed}
    return Sandbox(**policy, **fields).run(list(argv), timeout=60)


def refused(result: Result) -> list[tuple[str, str | None]]:
    return [(one.syscall, one.flag) for one in result.denials]


@contextmanager
def answering(answer: Any) -> Iterator[tuple[int, list[bytes]]]:
    """A TCP server on loopback: `answer(connection, seen)` for each connection, in a thread."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError, struct.error):
            connection.settimeout(20)
            answer(connection, seen)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data)) or b"\0" * size
    return data


def postgres(connection: socket.socket, seen: list[bytes]) -> None:
    """A stand-in for a PostgreSQL server, protocol 3.0: it trusts everybody, and answers each query with one row."""

    def tell(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    while True:  # requests for TLS or GSS come first, and are answered by one letter
        size, version = struct.unpack("!II", exactly(connection, 8))
        if version == 196608:
            break
        connection.sendall(b"N")
    seen.append(exactly(connection, size - 8))
    ready = tell(b"Z", b"I")
    version_text = b"server_version\x0015.0\0"
    connection.sendall(tell(b"R", bytes(4)) + tell(b"S", version_text) + tell(b"S", b"client_encoding\0UTF8\0") + ready)
    while (kind := exactly(connection, 1)) == b"Q":
        (size,) = struct.unpack("!I", exactly(connection, 4))
        seen.append(exactly(connection, size - 4))
        column = b"answer\0" + struct.pack("!IHIhIH", 0, 0, 25, -1, 0xFFFFFFFF, 0)
        row = tell(b"T", b"\0\1" + column) + tell(b"D", b"\0\1" + struct.pack("!I", 5) + b"forty")
        connection.sendall(row + tell(b"C", b"SELECT 1\0") + ready)
    assert kind == b"X"


@pytest.mark.needs("command:psql")
def test_psql_asks_the_listed_server() -> None:
    with answering(postgres) as (port, seen), answering(postgres) as (other, not_seen):
        allowed = [f"tcp://127.0.0.1:{port}"]
        words = ["-X", "-At", "-U", "me", "-d", "mine", "-c", "select 'question'", "-h", "127.0.0.1", "-p"]
        env = {"PGCONNECT_TIMEOUT": "20", "HOME": "/nowhere", "PATH": "/usr/bin"}
        result = inside(allowed, "psql", *words, str(port), env=env)
        assert result.stdout == b"forty\n", result.stderr
        assert seen[0].startswith(b"user\0me\0database\0mine\0")
        assert seen[1:] == [b"select 'question'\0"]
        result = inside(allowed, "psql", *words, str(other), env=env)
        assert b"refused" in result.stderr
        assert refused(result) == [("connect", f"--net-allow tcp://127.0.0.1:{other}")]
    assert not_seen == []


GO = Path(__file__).with_name("programs") / "client.go"


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of Go's own: it makes its system calls itself, and asks DNS itself."""
    folder = tmp_path_factory.mktemp("go")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "GOCACHE": str(folder / "cache"), "GO111MODULE": "off"}
    env |= {"GOPATH": str(folder / "path"), "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOTELEMETRY": "off"}
    go = shutil.which("go", path=env["PATH"]) or "go"
    built = folder / "client"
    done = subprocess.run([go, "build", "-o", str(built), str(GO)], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return built


def web(connection: socket.socket, seen: list[bytes]) -> None:
    seen.append(connection.recv(1 << 16).partition(b"\r\n")[0])
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\ncontent")


@contextmanager
def name_server() -> Iterator[tuple[int, list[bytes]]]:
    """A DNS server on loopback that answers every question about IPv4 by 192.0.2.7."""
    seen: list[bytes] = []
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, sender = server.recvfrom(4096)
                if data == b"the end":
                    return
                seen.append(data)
                end = data.index(b"\0", 12) + 5
                record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([192, 0, 2, 7])
                found = record if data[end - 4 : end - 2] == b"\0\1" else b""
                counts = struct.pack("!HHHH", 1, 1 if found else 0, 0, 0)
                server.sendto(data[:2] + b"\x81\x80" + counts + data[12:end] + found, sender)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], seen
        with socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"the end", server.getsockname())
        thread.join()


@pytest.mark.needs("command:go")
def test_a_go_program_gets_pages_names_and_interfaces(go_client: Path) -> None:
    with answering(web) as (port, seen), name_server() as (names, questions), answering(web) as (other, not_seen):
        allowed = [f"tcp://127.0.0.1:{port}", f"udp://127.0.0.1:{names}"]
        asked = [f"get=http://127.0.0.1:{port}/page", f"lookup=127.0.0.1:{names}", "interfaces"]
        asked += [f"get=http://127.0.0.1:{other}/page"]
        result = inside(allowed, str(go_client), *asked, fs_readable=[str(go_client.parent)])
        lines = result.stdout.decode().splitlines()
        assert lines[:2] == ["200 content", "[192.0.2.7] <nil>"], result
        shown = lines[2 : lines.index("interfaces: <nil>")]
        assert shown[0] == "lo [127.0.0.1/8 ::1/128]"
        assert len(shown) <= 2, "the machine's interfaces are nobody's business"
        assert "connection refused" in lines[-1]
        assert refused(result) == [("connect", f"--net-allow tcp://127.0.0.1:{other}")]
    assert seen == [b"GET /page HTTP/1.1"]
    assert questions
    assert not_seen == []


REDIS = ["redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", "/tmp", "--port"]


@pytest.mark.needs("command:redis-server")
@pytest.mark.needs("command:redis-benchmark")
@pytest.mark.needs("command:redis-cli")
def test_redis_benchmark_drives_the_listed_server_over_connections_that_nobody_is_asked_about() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with subprocess.Popen([*REDIS, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for_server(port, server)
            words = ["redis-benchmark", "-t", "set,get,lpush", "-n", "3000", "-c", "10", "--csv", "-p", str(port)]
            result = inside([f"tcp://127.0.0.1:{port}"], *words)
            told = [line.split(",")[:2] for line in result.stdout.decode().replace('"', "").splitlines()]
            rates = {row[0]: float(row[1]) for row in told if re.fullmatch(r"[0-9.]+", row[1])}
            assert {"SET", "GET", "LPUSH"} <= rates.keys(), result
            assert min(rates.values()) > 0
            ask = ["redis-cli", "-p", str(port), "info", "commandstats"]
            counted = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20).stdout
            assert "cmdstat_lpush:calls=3000," in counted
            result = inside(["tcp://127.0.0.1:1"], *words)
            assert "refused" in (result.stdout + result.stderr).decode()
        finally:
            server.terminate()
