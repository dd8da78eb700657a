"""Endpoints, names, Unix sockets, ports and HTTP rules, through the public API, with real servers and clients."""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandlock import PolicyError, Result, Sandbox
from sandlock_proxy import CertificateAuthority

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/etc/hosts", "-/etc/nsswitch.conf"]


class Server:
    """A TCP server on the loopback that greets and counts who came."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            with connection:
                connection.sendall(b"hello")


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    pair = Server(), Server()
    yield pair
    for server in pair:
        server.socket.close()


def python(code: str, **fields: Any) -> Result:
    return Sandbox(fs_readable=SYSTEM, **fields).run(["/usr/bin/python3", "-c", code], timeout=30)


def reach(*targets: tuple[str, int]) -> str:
    return f"""
import socket
for target in {targets!r}:
    try: print(socket.create_connection(target, timeout=5).recv(9).decode())
    except OSError as error: print(error.errno)
"""


def test_only_the_listed_endpoint_is_reached_and_the_refusal_names_its_flag(servers: tuple[Server, Server]) -> None:
    allowed, other = servers
    code = reach(("127.0.0.1", allowed.port), ("127.0.0.1", other.port), ("localhost", allowed.port))
    result = python(code, net_allow=[f"tcp://127.0.0.1:{allowed.port}"])
    assert result.stdout.decode().split() == ["hello", "111", "hello"], result.stderr
    assert (allowed.accepted, other.accepted) == (2, 0)
    [denial] = result.denials
    assert (denial.syscall, denial.flag) == ("connect", f"--net-allow tcp://127.0.0.1:{other.port}")


def test_a_name_is_resolved_once_and_told_by_the_hosts_file(servers: tuple[Server, Server]) -> None:
    code = f"{reach(('localhost', servers[0].port))}\nprint(open('/etc/hosts').read().count('localhost'))"
    result = python(code, net_allow=[f"localhost:{servers[0].port}"])
    assert result.stdout.decode().split()[0] == "hello", result.stderr


def test_a_name_that_does_not_resolve_is_a_launch_error_that_names_it() -> None:
    with pytest.raises(PolicyError, match=r"no-such-host\.invalid"):
        python("1", net_allow=["no-such-host.invalid:80"])


@pytest.mark.needs("landlock", level=4)
@pytest.mark.needs("ipv4")
def test_a_list_of_tcp_ports_alone_is_the_kernels_and_nothing_is_asked_about() -> None:
    """Such a run has no supervisor; the same port with an address has one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"""
import threading
from sandlock import Sandbox
connect = "import socket; socket.create_connection(('127.0.0.1', {port})).close()"
for rule in ("tcp://:{port}", "tcp://127.0.0.1:{port}"):
    Sandbox(fs_readable={SYSTEM}, net_allow=[rule]).run(["/usr/bin/python3", "-c", connect]).check()
    print(any(one.name == "sandlock-supervisor" for one in threading.enumerate()))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"False", b"True"], done.stderr


def test_net_deny_alone_allows_the_rest(servers: tuple[Server, Server]) -> None:
    allowed, denied = servers
    result = python(
        reach(("127.0.0.1", allowed.port), ("127.0.0.1", denied.port)), net_deny=[f"127.0.0.1:{denied.port}"]
    )
    assert result.stdout.decode().split() == ["hello", "111"]
    assert denied.accepted == 0
    result = python(reach(("127.0.0.1", allowed.port)), net_deny=["private"])
    assert result.stdout.decode().split() == ["111"]


def test_w05_a_callback_opens_nothing_that_the_policy_does_not(servers: tuple[Server, Server]) -> None:
    code = reach(("127.0.0.1", servers[0].port))
    assert python(code, policy_fn=lambda *_: None).stdout.decode().strip() in ("13", "1")
    assert servers[0].accepted == 0
    result = python(code, policy_fn=lambda *_: None, net_allow=[f"127.0.0.1:{servers[0].port}"])
    assert result.stdout.decode().strip() == "hello"


def test_w09_a_callback_is_asked_before_a_connection_is_made(servers: tuple[Server, Server]) -> None:
    asked: list[Any] = []

    def refuse(event: Any, _: Any) -> object:
        if event.syscall == "connect":
            asked.append((event.host, event.port))
            return True
        return None

    port = servers[0].port
    result = python(reach(("127.0.0.1", port)), policy_fn=refuse, net_allow=[f"tcp://:{port}"])
    assert result.stdout.decode().strip() == "1"
    assert asked == [("127.0.0.1", port)]
    assert servers[0].accepted == 0


def test_unix_sockets_outside_are_closed_but_for_those_that_are_listed(tmp_path: Path) -> None:
    listeners = {}
    for name in ("a", "b"):
        listeners[name] = socket.socket(socket.AF_UNIX)
        listeners[name].bind(str(tmp_path / name))
        listeners[name].listen(5)
    code = f"""
import socket
for name in "ab":
    try: socket.socket(socket.AF_UNIX).connect({str(tmp_path)!r} + "/" + name); print("in")
    except OSError as error: print(error.errno)
"""
    result = python(code, unix_allow=[str(tmp_path / "a")], fs_writable=[str(tmp_path)])
    assert result.stdout.decode().split()[0] == "in", result.stderr
    assert result.stdout.decode().split()[1] != "in"
    listeners["b"].settimeout(0.2)
    with pytest.raises(TimeoutError):
        listeners["b"].accept()
    for listener in listeners.values():
        listener.close()


def test_the_control_socket_of_a_run_is_given_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that reached it could have that run saved to a folder of its choice, as its user can (seen to work)."""
    runtime = tmp_path / "runtime"
    (runtime / "sandlock").mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    (tmp_path / "link").symlink_to(runtime / "sandlock")
    for path in (runtime / "sandlock" / "it.control", tmp_path / "link" / "it.control"):
        with pytest.raises(PolicyError, match="controlled"):
            python("print('ran')", unix_allow=[str(path)])
    assert python("print('ran')", unix_allow=[str(runtime / "other")]).stdout == b"ran\n"


def test_two_sandboxes_bind_the_same_port_with_a_port_space_each() -> None:
    code = """
import socket, time, sys
s = socket.socket(); s.bind(("127.0.0.1", 18080)); s.listen()
print(s.getsockname()[1], flush=True); sys.stdin.readline()
c = socket.create_connection(("127.0.0.1", 18080)); a, _ = s.accept(); c.sendall(b"self"); print(a.recv(4).decode())
"""
    fields: dict[str, Any] = {"fs_readable": SYSTEM, "net_allow_bind": [18080], "port_remap": True}
    fields["net_allow"] = ["tcp://127.0.0.1:18080"]
    boxes = [Sandbox(**fields).popen(["/usr/bin/python3", "-c", code], stdin=-1, stdout=-1) for _ in range(2)]
    for process in boxes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"18080\n"
    for process in boxes:
        out, _ = process.communicate(b"\n", timeout=20)
        assert out.strip() == b"self"


OPTIONS = """
import socket
keep = bytes([7, 7, 4, 0, 0, 0, 0, 0])  # record route: an option that any program may set
tried = {
    "SO_BINDTODEVICE": (socket.AF_INET, 1, 25, b"lo\\0"), "SO_MARK": (socket.AF_INET, 1, 36, 7),
    "SO_ATTACH_FILTER": (socket.AF_INET, 1, 26, bytes(16)), "SO_ATTACH_BPF": (socket.AF_INET, 1, 50, 0),
    "IP_OPTIONS": (socket.AF_INET, 0, 4, keep), "IP_FREEBIND": (socket.AF_INET, 0, 15, 1),
    "IP_TRANSPARENT": (socket.AF_INET, 0, 19, 1), "IPV6_RTHDR": (socket.AF_INET6, 41, 57, b""),
    "TCP_REPAIR": (socket.AF_INET, 6, 19, 1), "TCP_ULP": (socket.AF_INET, 6, 31, b"tls"),
    "TCP_FASTOPEN_CONNECT": (socket.AF_INET, 6, 30, 1), "TCP_NODELAY": (socket.AF_INET, 6, 1, 1),
}
for name, (family, level, option, value) in tried.items():
    with socket.socket(family) as s:
        try: s.setsockopt(level, option, value); print(name, "done")
        except OSError as error: print(name, error.errno)
"""
OFTEN_FREE = {"SO_BINDTODEVICE", "IP_OPTIONS", "IP_FREEBIND", "TCP_FASTOPEN_CONNECT", "IPV6_RTHDR"}


def test_net_10_options_that_choose_another_way_out_are_refused() -> None:
    """The control: bare, most of those that need no capability are granted by the kernel, or fail in another way."""
    bare = subprocess.run(["/usr/bin/python3", "-c", OPTIONS], capture_output=True, text=True, check=True).stdout
    granted = {line.split()[0] for line in bare.splitlines() if line.endswith(" done")}
    assert len(granted & OFTEN_FREE) >= 2
    told = dict(line.split() for line in python(OPTIONS, net_allow=["*"]).stdout.decode().splitlines())
    assert told.pop("TCP_NODELAY") == "done"
    assert len(told) == 11
    assert set(told.values()) == {"1"}


MANY = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    for address in ("224.0.0.251", "224.0.0.252", "127.255.255.255", "255.255.255.255"):
        try: print(s.sendto(b"xy", (address, 9)))
        except OSError as error: print(error.errno)
"""


@pytest.mark.needs("ipv4")
def test_addresses_of_many_are_judged_as_addresses_of_one() -> None:
    """Multicast and broadcast, on the loopback; what leads elsewhere is never allowed here."""
    told = python(MANY, net_allow=["udp://224.0.0.251:9", "udp://127.255.255.255:9"])
    assert told.stdout.split() == [b"2", b"1", b"2", b"1"], told.stderr  # sent, or EPERM


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.path} {self.headers.get('Authorization') == 'Bearer s3cret'}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


FETCH = """
import urllib.request, urllib.error
for url in {urls!r}:
    try: print(urllib.request.urlopen(url, timeout=10).read().decode())
    except urllib.error.HTTPError as error: print(error.code)
    except OSError as error: print(type(error).__name__)
"""


def test_http_rules_decide_by_method_host_and_path(web: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret")
    base = f"http://localhost:{web}"
    code = FETCH.format(urls=[f"{base}/ok/a", f"{base}/ok/../secret", f"{base}/no", f"{base}/ok/%2e%2e/no"])
    code += "\nimport os; print('s3cret' in str(os.environ))"
    result = python(
        code,
        http_allow=[f"GET localhost:{web}/ok/*"],
        http_ports=[web],
        credentials=["T=env:API_TOKEN"],
        http_auth=[f"GET localhost:{web}/ok/* bearer T"],
        clean_env=False,
    )
    assert result.stdout.decode().split("\n")[:5] == ["/ok/a True", "403", "403", "400", "False"], result.stderr


def test_tls_is_looked_into_by_an_ephemeral_ca_that_the_bundle_has(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split(),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("")
    before = bundle.read_bytes()
    code = f"""
import ssl, urllib.request, urllib.error
context = ssl.create_default_context(cafile={str(bundle)!r})
try: print(urllib.request.urlopen("https://localhost:{server.server_port}/x", context=context, timeout=10).status)
except urllib.error.HTTPError as error: print(error.code, error.read()[:9].decode())
"""
    try:
        result = Sandbox(
            fs_readable=[*SYSTEM, str(tmp_path)],
            http_allow=[f"GET localhost:{server.server_port}/y"],
            http_ports=[server.server_port],
            http_inject_ca=[str(bundle)],
        ).run(["/usr/bin/python3", "-c", code], timeout=30)
    finally:
        server.shutdown()
    # The handshake is trusted inside, and the rule is what refuses: the proxy has read the request.
    assert result.stdout.decode().split()[0] == "403", result.stderr
    assert bundle.read_bytes() == before  # nothing was written on the host


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"http_ca": "/no/such/ca", "http_key": "/no/such/key", "http_allow": ["GET localhost/*"]}, "/no/such"),
        ({"http_inject_ca": ["/no/such/bundle"], "http_allow": ["GET localhost/*"]}, "/no/such/bundle"),
        (
            {"http_inject_ca": ["/usr"], "http_allow": ["GET localhost/*"]},
            "http.inject_ca: /usr cannot be read: Is a dir",
        ),
        (
            {"http_inject_ca": ["/etc/passwd"], "http_allow": ["GET localhost/*"]},
            "http.inject_ca: /etc/passwd is no bundle",
        ),
        (
            {"http_inject_ca": ["/etc/hosts"], "http_allow": ["GET localhost/*"]},
            r"http.inject_ca\[0\]: /etc/hosts is taken by .*name a bundle",
        ),
        ({"http_ca_out": "/no/such/folder/ca", "http_allow": ["GET localhost/*"]}, "http.ca_out: .*/no/such/folder/ca"),
        ({"http_ca": "/etc/hosts", "http_allow": ["GET localhost/*"]}, "http.ca = .*set http_key as well"),
        ({"http_key": "/etc/hosts", "http_allow": ["GET localhost/*"]}, "http.key = .*set http_ca as well"),
        ({"credentials": ["T=env:NOT_SET"], "http_auth": ["GET localhost/* bearer T"]}, "NOT_SET"),
    ],
)
def test_what_the_proxy_cannot_use_is_refused_by_name(fields: dict[str, Any], text: str) -> None:
    os.environ.pop("NOT_SET", None)
    with pytest.raises(PolicyError, match=text):
        python("1", **fields)


def test_a_ca_and_a_key_that_do_not_fit_are_told_apart(tmp_path: Path) -> None:
    ca, junk, missing = tmp_path / "ca.pem", tmp_path / "junk", tmp_path / "missing"
    ca.write_bytes(CertificateAuthority.ephemeral().pem)
    junk.write_text("junk")
    for paths, text in (
        ((ca, junk), "http.key: the key of the CA is no private key in PEM"),
        ((ca, missing), f"http.key: the key of the CA, {missing}, cannot be read: No such file"),
        ((junk, junk), "http.ca: the CA is no certificate in PEM"),
    ):
        with pytest.raises(PolicyError, match=text):
            python("1", http_ca=str(paths[0]), http_key=str(paths[1]), http_allow=["GET localhost/*"])
