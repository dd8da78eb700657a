"""Programs that people use, on connections that they believe to be to the server."""

from __future__ import annotations

import functools
import hashlib
import http.client
import http.server
import json
import os
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from interception import World

from sandlock_proxy import CertificateAuthority


@pytest.mark.needs("command:curl")
@pytest.mark.parametrize("tls", [False, True])
def test_curl_gets_puts_and_is_told_the_rule(world: World, tmp_path: Path, *, tls: bool) -> None:
    upstream_ca, ca = CertificateAuthority.ephemeral(), CertificateAuthority.ephemeral()
    judge = ssl.create_default_context(cadata=upstream_ca.pem.decode())
    server = world.server(context=upstream_ca.context("a.org") if tls else None)
    proxy = world.proxy(server.port, deny=["* a.org/ok/no"], ca=ca, upstream_context=judge)
    door = world.door(proxy, server.port)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "data").write_bytes(os.urandom(5_000_000))
    base = f"{'https' if tls else 'http'}://a.org:{server.port}"
    curl = ["curl", "-sS", "--noproxy", "*", "--max-time", "30", "--cacert", str(tmp_path / "ca.pem"),
            "--connect-to", f"a.org:{server.port}:127.0.0.1:{door}"]  # fmt: skip

    def run(*arguments: str) -> str:
        return subprocess.run([*curl, *arguments], capture_output=True, text=True, check=True).stdout

    assert json.loads(run(f"{base}/ok/x?y=1"))["target"] == "/ok/x?y=1"
    # curl asks for 100-continue before a body of this size, and sends chunks when it reads from a pipe.
    assert json.loads(run("-T", str(tmp_path / "data"), f"{base}/ok/up"))["size"] == 5_000_000
    with open(tmp_path / "data", "rb") as data:
        command = [*curl, "-T", "-", f"{base}/ok/pipe"]
        piped = subprocess.run(command, stdin=data, capture_output=True, check=True).stdout
    assert json.loads(piped)["size"] == 5_000_000
    assert (
        hashlib.sha256(server.requests[-1].body).digest() == hashlib.sha256((tmp_path / "data").read_bytes()).digest()
    )
    assert run("-I", f"{base}/ok/x").startswith("HTTP/1.1 200")
    assert "http.deny[0] * a.org/ok/no" in run(f"{base}/ok/no")
    assert "because no rule of http.allow covers it" in run("--path-as-is", f"{base}/ok/../secret")
    assert "upgrade" in run("-H", "Connection: Upgrade", "-H", "Upgrade: websocket", f"{base}/ok/x")
    assert run(f"{base}/ok/1", f"{base}/ok/2", "--http1.1").count('"target"') == 2


def test_http_client_and_urllib_work_through_a_listening_proxy(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port)
    listening = world.run(proxy.listen())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": listening.url}))
    base = f"http://a.org:{server.port}"
    with opener.open(f"{base}/ok/x", timeout=10) as answer:
        assert json.load(answer)["target"] == "/ok/x"
    put = urllib.request.Request(f"{base}/ok/x", data=b"x" * 100_000, method="PUT")  # noqa: S310 - http, as it says
    with opener.open(put, timeout=10) as answer:
        assert json.load(answer)["size"] == 100_000
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(f"{base}/no", timeout=10)
    assert caught.value.code == 403
    caught.value.close()
    stranger = http.client.HTTPConnection(listening.address, listening.port, timeout=10)
    stranger.request("GET", f"{base}/ok/x", headers={"Host": f"a.org:{server.port}"})
    assert stranger.getresponse().status == 407
    stranger.close()


@pytest.mark.needs("command:git")
def test_git_clones_over_http(world: World, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e@a.org", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    git("init", "-q", "source")
    (tmp_path / "source" / "file").write_bytes(os.urandom(300_000))
    git("-C", "source", "add", "file")
    git("-C", "source", "commit", "-q", "-m", "one")
    git("clone", "-q", "--bare", "source", "bare.git")
    git("-C", "bare.git", "update-server-info")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        proxy = world.proxy(port, ["GET a.org:{port}/bare.git/*"])
        listening = world.run(proxy.listen())
        environment["http_proxy"] = listening.url
        git("clone", "-q", f"http://a.org:{port}/bare.git", "copy")
        assert (tmp_path / "copy" / "file").read_bytes() == (tmp_path / "source" / "file").read_bytes()
        with pytest.raises(subprocess.CalledProcessError) as caught:
            git("clone", "-q", f"http://a.org:{port}/other.git", "denied")
        assert "403" in caught.value.stderr
        server.shutdown()
