"""Programs that people use, inside, through the public API: HTTP rules, TLS that is looked into, what is recorded."""

from __future__ import annotations

import functools
import http.server
import json
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_lab import Command

from sandlock import AuditLog, Policy, Result, Sandbox, preset
from sandlock_proxy import CertificateAuthority

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/etc/hosts", "-/etc/nsswitch.conf", "-/etc/ssl"]
SYSTEM += ["/dev/urandom"]


class Site(http.server.SimpleHTTPRequestHandler):
    """A folder, and what was asked for of it."""

    protocol_version = "HTTP/1.1"
    seen: list[str]

    def __init__(self, *args: Any, seen: list[str], **more: Any) -> None:
        self.seen = seen
        super().__init__(*args, **more)

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        text = f"{length} {len(self.rfile.read(length))}".encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.seen.append(f"{self.command} {self.path} {int(code)}")


@contextmanager
def site(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """Serve `folder` on loopback; gives the port, and the requests that arrived."""
    seen: list[str] = []
    handler = functools.partial(Site, directory=str(folder), seen=seen)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, seen
        server.shutdown()


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "ok").mkdir(parents=True)
    (folder / "ok/page").write_text("content")
    (folder / "secret").write_text("not for you")
    return folder


def inside(port: int, rules: list[str], *argv: str, **fields: Any) -> Result:
    fields = {"fs_readable": SYSTEM, "fs_writable": ["/dev/null"], "http_allow": rules, "http_ports": [port], **fields}
    return Sandbox(**fields).run(list(argv), timeout=60)


@pytest.mark.needs("command:curl")
def test_curl_is_let_through_by_method_host_and_path_and_each_decision_is_recorded(pages: Path, tmp_path: Path) -> None:
    with site(pages) as (port, seen):
        base = f"http://localhost:{port}"
        rules = [f"GET localhost:{port}/ok/*"]
        policy = Policy(fs_readable=SYSTEM, fs_writable=["/dev/null"], http_allow=rules, http_ports=[port])
        script = f"""
        curl -sS {base}/ok/page; echo
        curl -sS -o /dev/null -w '%{{http_code}}\\n' -T /etc/hosts {base}/ok/page
        curl -sS -o /dev/null -w '%{{http_code}}\\n' {base}/secret?token=abc
        curl -sS -o /dev/null -w '%{{http_code}}\\n' -H 'Host: other.example:{port}' {base}/ok/page
        curl -sS -o /dev/null -w '%{{http_code}}\\n' --path-as-is {base}/ok/../secret
        """
        log = AuditLog(tmp_path / "audit", policy)
        result = Sandbox(policy, audit=log).run(["/bin/sh", "-c", script], timeout=60)
        log.close()
        assert result.stdout.decode().split() == ["content", "403", "403", "403", "403"], result.stderr
        assert seen == ["GET /ok/page 200"]
    told = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    lines = [line for line in told if line["event"] not in ("process", "sample")]
    decided = [(line["event"], line["detail"]["verdict"], line["detail"]["endpoint"]) for line in lines]
    assert decided == [
        ("audit", "allowed", f"GET {base}/ok/page"),
        ("denied", "denied", f"PUT {base}/ok/page"),
        ("denied", "denied", f"GET {base}/secret"),  # the query, where tokens are, is not written down
        ("denied", "denied", f"GET http://other.example:{port}/ok/page"),
        ("denied", "denied", f"GET {base}/secret"),
    ]
    assert lines[0]["detail"]["rule"] == f"http.allow[0] GET localhost:{port}/ok/*"
    denials = {(one.syscall, one.target): (one.count, one.flag) for one in result.denials}
    assert denials["http", f"GET {base}/secret"] == (2, f"--http-allow 'GET localhost:{port}/secret'")


@pytest.mark.needs("command:curl")
def test_the_flag_that_a_denied_request_names_allows_it(pages: Path, tmp_path: Path) -> None:
    sandlock = Command(tmp_path)
    with site(pages) as (port, _):
        line = ["--http-allow", f"HEAD localhost:{port}/", "--http-port", str(port)]
        curl = ["--", "curl", "-sSf", f"http://localhost:{port}/secret"]
        denied = sandlock("run", *line, *curl)
        assert denied.returncode == 22
        flag = f"--http-allow 'GET localhost:{port}/secret'"
        assert flag in denied.stderr
        done = sandlock("run", *line, "--http-allow", f"GET localhost:{port}/secret", *curl)
        assert (done.returncode, done.stdout) == (0, "not for you"), done.stderr


PYTHON_CLIENT = """
import http.client, os, socket, urllib.error, urllib.request
port = {port}
one = http.client.HTTPConnection("localhost", port)
for method, path in (("GET", "/ok/page"), ("GET", "/secret"), ("PUT", "/ok/up")):  # on one connection
    one.request(method, path, body=b"x" * 300000 if method == "PUT" else None)
    answer = one.getresponse(); body = answer.read(); print(answer.status, answer.status < 400 and body.decode())
try: urllib.request.urlopen(f"http://localhost:{{port}}/secret")
except urllib.error.HTTPError as error: print(error.code)
"""


def test_python_speaks_on_a_kept_connection_and_each_request_is_judged(pages: Path) -> None:
    with site(pages) as (port, seen):
        rules = [f"GET localhost:{port}/ok/*", f"PUT localhost:{port}/ok/up"]
        code = PYTHON_CLIENT.format(port=port)
        result = inside(port, rules, "/usr/bin/python3", "-c", code)
        lines = result.stdout.decode().splitlines()
        assert lines[:3] == ["200 content", "403 False", "201 300000 300000"], result.stderr
        assert lines[-1] == "403"
        assert "GET /secret 200" not in seen


@pytest.mark.needs("command:git")
def test_git_clones_what_a_rule_allows(pages: Path, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        line = ["git", "-c", "user.name=n", "-c", "user.email=e@a.org", *words]
        subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q", "source")
    (tmp_path / "source/file").write_text("from the repository")
    git("-C", "source", "add", "file")
    git("-C", "source", "commit", "-q", "-m", "one")
    for name in ("ok/allowed.git", "other.git"):
        git("clone", "-q", "--bare", "source", str(pages / name))
        git("-C", str(pages / name), "update-server-info")
    work = tmp_path / "work"
    work.mkdir()
    with site(pages) as (port, _):
        base = f"http://localhost:{port}"
        script = f"git clone -q {base}/ok/allowed.git a && cat a/file; git clone -q {base}/other.git b"
        fields = {
            "fs_writable": [str(work), "/dev/null"],
            "cwd": str(work),
            "env": {"HOME": str(work), "GIT_CONFIG_NOSYSTEM": "1"},
        }
        result = inside(port, [f"GET localhost:{port}/ok/allowed.git/*"], "/bin/sh", "-c", script, **fields)
    assert result.stdout == b"from the repository", result.stderr
    assert b"403" in result.stderr
    assert not (work / "b").exists()


OTHERS = {
    "asyncio": """
import asyncio
async def get(path):
    reader, writer = await asyncio.open_connection("localhost", {port})
    writer.write(f"GET {{path}} HTTP/1.1\\r\\nHost: localhost:{port}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    head, _, body = (await reader.read()).partition(b"\\r\\n\\r\\n")
    writer.close()
    return head.split()[1].decode() + " " + (body.decode() if b"200" in head else "")
async def both(): return await asyncio.gather(get("/ok/page"), get("/secret"))
print(*asyncio.run(both()), sep="\\n")
""",
    "requests": """
import requests
with requests.Session() as session:
    for path in ("/ok/page", "/secret"):
        answer = session.get("http://localhost:{port}" + path, timeout=30)
        print(answer.status_code, answer.text if answer.ok else "")
""",
    "httpx": """
import asyncio, httpx
with httpx.Client() as client: print(200, client.get("http://localhost:{port}/ok/page").text)
async def get():
    async with httpx.AsyncClient() as client: return await client.get("http://localhost:{port}/secret")
print(asyncio.run(get()).status_code)
""",
    "node": """
const get = async (path) => {{
  const answer = await fetch("http://localhost:{port}" + path);
  return answer.status + " " + (answer.ok ? await answer.text() : "");
}};
Promise.all([get("/ok/page"), get("/secret")]).then((lines) => console.log(lines.join("\\n")));
""",
}


OWN = [sys.prefix, sys.base_prefix]  # where requests and httpx are


@pytest.mark.parametrize(
    "client", [pytest.param(one, marks=pytest.mark.needs("command:node")) if one == "node" else one for one in OTHERS]
)
def test_clients_of_other_makes_are_judged(pages: Path, client: str) -> None:
    """Some connect without waiting, some ask for both pages at once, some on one connection."""
    program = {"node": "node", "asyncio": "/usr/bin/python3"}.get(client, sys.executable)
    with site(pages) as (port, seen):
        words = [program, "-e" if client == "node" else "-c", OTHERS[client].format(port=port)]
        fields = {"fs_readable": [*SYSTEM, *OWN]} if program == sys.executable else {}
        result = inside(port, [f"GET localhost:{port}/ok/*"], *words, **fields)
    assert result.stdout.decode().split() == ["200", "content", "403"], result.stderr
    assert seen == ["GET /ok/page 200"]


def test_pip_installs_from_an_index_what_a_rule_allows(pages: Path, tmp_path: Path) -> None:
    for name in ("allowed", "other"):
        folder = pages / "simple" / name
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            info = f"{name}-1.0.dist-info"
            wheel.writestr(f"{name}.py", "content = 1\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")
    work = tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "--retries", "0"]
    with site(pages) as (port, seen):
        rules = [f"GET 127.0.0.1:{port}/simple/allowed/*"]
        policy = preset("python").replace(cwd=str(work), fs_writable=[str(work), "/dev/null"], http_ports=[port])
        policy = policy.replace(http_allow=rules)
        for name in ("allowed", "other"):
            more = ["install", "--index-url", f"http://127.0.0.1:{port}/simple", "--target", "into", name]
            result = Sandbox(policy).run([*pip, *more], timeout=120)
            assert result.success == (name == "allowed"), result.stderr
    assert {one.target for one in result.denials} == {f"GET http://127.0.0.1:{port}/simple/other/"}
    assert (work / "into/allowed.py").read_text() == "content = 1\n"
    assert {line.split("/")[2] for line in seen} == {"allowed"}


TLS_CLIENTS = """
curl -sS --cacert {bundle} {base}/ok/page; echo
curl -sS -o /dev/null -w '%{{http_code}}\n' --cacert {bundle} {base}/secret
curl -sS -o /dev/null -w '%{{http_code}}\n' --cacert {bundle} --http2 {base}/ok/page
curl -sS -o /dev/null --cacert {theirs} {base}/ok/page 2>/dev/null || echo $?
printf 'GET /ok/page HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n' |
    openssl s_client -quiet -verify_return_error -verify_hostname localhost -CAfile {bundle} \
    -servername localhost -connect localhost:{port} 2>/dev/null | tail -n 1; echo
export SSL_CERT_FILE={bundle}
/usr/bin/python3 -c 'import urllib.request as r; print(r.urlopen("{base}/ok/page").read().decode())'
"""


@pytest.mark.needs("command:curl")
@pytest.mark.needs("command:openssl")
@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_tls_is_looked_into_for_curl_openssl_and_python(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespaces: str
) -> None:
    """The server's own CA is trusted by the host alone; inside, the bundle has the sandbox's."""
    theirs, bundle, out = tmp_path / "theirs.pem", tmp_path / "bundle.pem", tmp_path / "out.pem"
    upstream = CertificateAuthority.ephemeral()
    theirs.write_bytes(upstream.pem)
    bundle.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(theirs))
    with site(pages, upstream.context("localhost")) as (port, seen):
        names = {"bundle": bundle, "theirs": theirs, "port": port, "base": f"https://localhost:{port}"}
        result = inside(
            port,
            [f"GET localhost:{port}/ok/*"],
            *("/bin/sh", "-c", TLS_CLIENTS.format(**names)),
            fs_readable=[*SYSTEM, str(bundle), str(theirs)],
            http_inject_ca=[str(bundle)],
            http_ca_out=str(out),
            namespaces=namespaces,
        )
    lines = result.stdout.decode().split()
    assert lines == ["content", "403", "200", "60", "content", "content"], result.stderr
    assert seen == ["GET /ok/page 200"] * 4
    assert out.read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert "PRIVATE" not in out.read_text()
