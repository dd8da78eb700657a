"""Raw bytes from inside, on connections that the program made itself, to a server that keeps all that it hears."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from sandlock import Sandbox

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/etc/hosts", "-/etc/nsswitch.conf"]

HOST = b"Host: localhost:{port}\r\n"
HIDDEN = b"GET /secret HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /ok/x HTTP/1.1\r\n" + HOST

# None of these is a request that the rules allow, whatever the server makes of it.
REFUSED = [
    HIDDEN,
    # NET-17: where one request ends and the next begins
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    POST + b"Content-Length: 0\r\nContent-Length: 90\r\n\r\n" + HIDDEN,
    POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    POST + b"X: y\n\n" + HIDDEN,
    POST + b"X: y\r\n folded: z\r\n\r\n" + HIDDEN,
    POST + b"X: y\rGET /secret HTTP/1.1\r\n\r\n",
    POST + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n" + HIDDEN,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /secret HTTP/0.9\r\n\r\n",
    b"GET /secret\r\n",
    # NET-14, NET-15: who is asked
    b"CONNECT localhost:{port} HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN,
    b"GET http://localhost:{port}/secret HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://localhost:{port}/ok/x HTTP/1.1\r\nHost: other:{port}\r\n\r\n" + HIDDEN,
    b"GET /ok/x HTTP/1.1\r\n" + HOST + b"Host: other\r\n\r\n",
    b"GET /ok/x HTTP/1.1\r\n\r\n",
    # NET-18, NET-19: what is asked for
    b"GET /ok/x\0/../../secret HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /ok/%0d%0aGET%20/secret HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /ok/..%2fsecret HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /ok/%2e%2e/secret HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"TRACE /ok/x HTTP/1.1\r\n" + HOST + b"\r\n",
    b"get /ok/x HTTP/1.1\r\n" + HOST + b"\r\n",
    # no HTTP at all
    b"\x16\x03\x01\x00\x05hello",
    b"SSH-2.0-x\r\n",
]

PROGRAM = """
import json, socket, sys
port = int(sys.argv[1])
def ask(data):
    with socket.create_connection(("localhost", port), timeout=30) as s:
        s.sendall(data)
        try: (b"\\r\\n\\r\\n" in data) or s.shutdown(socket.SHUT_WR)
        except OSError: pass  # it has been closed already
        try: return s.recv(12).decode()
        except OSError: return ""
drip = socket.create_connection(("localhost", port)); drip.sendall(b"GET /ok/x HTTP/1.1\\r\\nX: ")  # and nothing more
print(json.dumps([ask(bytes.fromhex(word)) for word in sys.argv[2:]]))
"""


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A server that says yes to everything; gives its port, and what each connection sent."""
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        connection.settimeout(30)
        with connection, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
                data += more
            heard.append(data)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            while more := connection.recv(65536):
                heard.append(more)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=listen, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)


def asked(port: int, requests: list[bytes], **fields: object) -> list[str]:
    """The first words of the answers that a program inside gets."""
    words = [request.replace(b"{port}", str(port).encode()).hex() for request in requests]
    box = Sandbox(fs_readable=SYSTEM, **fields)  # type: ignore[arg-type]  # fields of a policy
    result = box.run(["/usr/bin/python3", "-c", PROGRAM, str(port), *words], timeout=120)
    assert result.success, result.stderr
    answers: list[str] = json.loads(result.stdout)
    return answers


def test_what_a_program_writes_itself_gets_no_further_than_the_proxy() -> None:
    honest = b"GET /ok/page HTTP/1.1\r\n" + HOST + b"\r\n"
    with listening() as (port, heard):
        rules = [f"GET localhost:{port}/ok/*", f"POST localhost:{port}/ok/*"]
        answers = asked(port, [*REFUSED, honest], http_allow=rules, http_ports=[port])
        assert answers[-1] == "HTTP/1.1 200"
        assert [one[9:] for one in answers[:-1] if one[9:10] not in ("4", "5", "")] == []
    assert b"secret" not in b"".join(heard)
    assert [data.partition(b"\r\n")[0] for data in heard if data] == [b"GET /ok/page HTTP/1.1"]


def test_the_same_bytes_arrive_where_no_rule_of_http_is_made() -> None:
    """The control: these attacks reach the server that they are meant for."""
    with listening() as (port, heard):
        asked(port, REFUSED, net_allow=[f"127.0.0.1:{port}"])
    assert sum(b"secret" in data for data in heard) > 10
