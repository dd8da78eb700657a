"""A second reference: what nginx reads of what was forwarded is what was judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from interception import World, read_answer, wait_until

pytestmark = [pytest.mark.needs("command:nginx"), pytest.mark.needs("command:setpriv")]

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    log_format seen escape=json '{{"method": "$request_method", "uri": "$request_uri", "path": "$uri", "host": "$http_host",'
        ' "length": "$http_content_length", "coding": "$http_transfer_encoding", "body": "$request_body", "status": $status}}';
    access_log {folder}/access.log seen;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{origin}; }} }}
}}
"""  # noqa: E501 - a line of nginx's log format


class Nginx:
    """nginx in front of a server, with a log of what it understood."""

    def __init__(self, folder: Path, origin: int) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, port=self.port, origin=origin))
        program = shutil.which("nginx")
        assert program is not None
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        # However the tests end, killed for one, it ends with them.
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stderr=subprocess.DEVNULL)
        try:
            wait_until(self._listens)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait(30)

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def seen(self) -> list[dict[str, str]]:
        """Every request that nginx has answered."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]


@pytest.fixture
def nginx(world: World, tmp_path: Path) -> Iterator[Nginx]:
    made = Nginx(tmp_path, world.server().port)
    try:
        yield made
    finally:
        made.close()


HOST = b"Host: a.org:{port}\r\n"


def test_nginx_and_the_proxy_agree_on_each_request(world: World, nginx: Nginx) -> None:
    proxy = world.proxy(nginx.port)
    connection = world.intercept(proxy, nginx.port)
    sent = [
        (b"GET", b"//ok/a/../%7eb?x=%2e", b"", b""),
        (b"POST", b"/ok/c", b"Content-Length: 5\r\n", b"hello"),
        (b"POST", b"/ok/d", b"Transfer-Encoding: chunked\r\n", b"3;e=f\r\nhel\r\n2\r\nlo\r\n0\r\nT: 1\r\n\r\n"),
        (b"PUT", b"http://A.org:{port}/ok/e%20f", b"Content-Length: 0\r\n", b""),
        (b"GET", b"/ok/%E2%82%AC", b"", b""),
    ]
    for method, target, framing, body in sent:
        head = method + b" " + target + b" HTTP/1.1\r\n" + HOST + framing + b"\r\n"
        connection.sendall((head + body).replace(b"{port}", str(nginx.port).encode()))
        assert read_answer(connection).status == 200
    wait_until(lambda: len(nginx.seen()) == len(sent))
    host = f"a.org:{nginx.port}"
    assert [(one["method"], one["uri"], one["path"], one["host"], one["body"]) for one in nginx.seen()] == [
        ("GET", "/ok/~b?x=%2e", "/ok/~b", host, ""),
        ("POST", "/ok/c", "/ok/c", host, "hello"),
        ("POST", "/ok/d", "/ok/d", host, "hello"),
        ("PUT", "/ok/e%20f", "/ok/e f", host, ""),
        ("GET", "/ok/%E2%82%AC", "/ok/€", host, ""),
    ]
    assert [event.path for event in world.events] == [one["uri"].partition("?")[0] for one in nginx.seen()]


@pytest.mark.parametrize(
    ("attack", "nginx_alone"),
    [
        # What nginx makes of it when it is asked directly: how many requests it sees, and of which paths.
        pytest.param(b"GET /secret HTTP/1.1\n" + HOST + b"\n", ["/secret"], id="bare LF"),
        pytest.param(b"\r\n\r\nGET /secret HTTP/1.1\r\n" + HOST + b"\r\n", ["/secret"], id="empty lines first"),
        pytest.param(b"GET /ok/../secret HTTP/1.1\r\n" + HOST + b"\r\n", ["/secret"], id="dots"),
        pytest.param(b"GET /ok/%2e%2e/secret HTTP/1.1\r\n" + HOST + b"\r\n", ["/secret"], id="encoded dots"),
        pytest.param(b"GET /ok%2f..%2fsecret HTTP/1.1\r\n" + HOST + b"\r\n", ["/secret"], id="encoded slashes"),
        pytest.param(b"GET http://b.org/secret HTTP/1.1\r\n" + HOST + b"\r\n", ["/secret"], id="absolute"),
        pytest.param(
            b"POST /ok/x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\nGET /secret HTTP/1.1\r\n" + HOST + b"\r\n",
            ["/ok/x", "/secret"],
            id="pipelined",
        ),
    ],
)
def test_what_nginx_would_take_does_not_reach_it(
    world: World, nginx: Nginx, attack: bytes, nginx_alone: list[str]
) -> None:
    data = attack.replace(b"{port}", str(nginx.port).encode())
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as straight:
        straight.sendall(data)
        wait_until(lambda: [one["path"] for one in nginx.seen()] == nginx_alone)  # the attack works without the proxy
    proxy = world.proxy(nginx.port)
    connection = world.intercept(proxy, nginx.port)
    connection.sendall(data)
    assert read_answer(connection).status in (200, 400, 403)
    while _more(connection):
        continue
    through = [one["path"] for one in nginx.seen()][len(nginx_alone) :]
    assert through == [path for path in nginx_alone if path.startswith("/ok/")]


def _more(connection: socket.socket) -> bool:
    connection.settimeout(0.5)
    try:
        return bool(connection.recv(65536))
    except (TimeoutError, ConnectionResetError):
        return False


def test_nginx_runs_as_whoever_runs_the_tests(nginx: Nginx) -> None:
    with open(f"/proc/{nginx.process.pid}/status", encoding="ascii") as file:
        uids = next(line for line in file if line.startswith("Uid:")).split()
    assert int(uids[1]) == os.geteuid()


TESTS_THAT_ARE_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_nginx import Nginx
print(Nginx(Path({folder!r}), 1).process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_nginx_outlives_tests_that_are_killed(tmp_path: Path) -> None:
    path = [os.path.dirname(__file__), *[one for one in sys.path if one]]
    code = TESTS_THAT_ARE_KILLED.format(path=path, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: not _runs(int(done.stdout)))


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"  # a zombie is init's to reap
    except (FileNotFoundError, ProcessLookupError):
        return False
