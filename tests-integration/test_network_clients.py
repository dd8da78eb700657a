"""Programs that people use, inside, through the public API: HTTP rules, TLS that is looked into, what is recorded."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_lab import Command

from sandlock import AuditLog, Policy, Result, Sandbox

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/etc/hosts", "-/etc/nsswitch.conf", "-/etc/ssl"]
SYSTEM += ["/dev/null", "/dev/urandom"]


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
def site(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """Serve `folder` on loopback; gives the port, and the requests that arrived."""
    seen: list[str] = []
    handler = functools.partial(Site, directory=str(folder), seen=seen)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
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
    fields = {"fs_readable": SYSTEM, "http_allow": rules, "http_ports": [port], **fields}
    return Sandbox(**fields).run(list(argv), timeout=60)


@pytest.mark.needs("command:curl")
def test_curl_is_let_through_by_method_host_and_path_and_each_decision_is_recorded(pages: Path, tmp_path: Path) -> None:
    with site(pages) as (port, seen):
        base = f"http://localhost:{port}"
        policy = Policy(fs_readable=SYSTEM, http_allow=[f"GET localhost:{port}/ok/*"], http_ports=[port])
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
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    told = [(line["event"], line["detail"]["verdict"], line["detail"]["endpoint"]) for line in lines]
    assert told == [
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
