"""TLS on both sides: our certificates towards the program, the system's judgement towards the server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from interception import Server, World, read_answer, wait_until

from sandlock_policy import Policy
from sandlock_proxy import CertificateAuthority, CertificateError, Proxy, splice_certificate, write_certificate


@pytest.fixture(scope="module")
def upstream_ca() -> CertificateAuthority:
    """Stands for the CAs of the Internet."""
    return CertificateAuthority.ephemeral()


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    """The proxy's own CA."""
    return CertificateAuthority.ephemeral()


def trusting(*authorities: CertificateAuthority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for one in authorities:
        context.load_verify_locations(cadata=one.pem.decode())
    return context


def secure(
    world: World, upstream_ca: CertificateAuthority, ca: CertificateAuthority, name: str = "a.org"
) -> tuple[Server, Proxy]:
    server = world.server(context=upstream_ca.context(name))
    proxy = world.proxy(server.port, ["* a.org:{port}/ok/*", "* b.org:{port}/*", "* 127.0.0.1:{port}/*"],
                        ca=ca, upstream_context=trusting(upstream_ca))  # fmt: skip
    return server, proxy


def greet(world: World, proxy: Proxy, port: int, context: ssl.SSLContext, name: str | None) -> ssl.SSLSocket:
    context.check_hostname = name is not None
    return context.wrap_socket(world.intercept(proxy, port), server_hostname=name)


def test_a_request_goes_through_tls_on_both_sides(
    world: World, upstream_ca: CertificateAuthority, ca: CertificateAuthority
) -> None:
    server, proxy = secure(world, upstream_ca, ca)
    context = trusting(ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with greet(world, proxy, server.port, context, "a.org") as client:
        assert client.selected_alpn_protocol() == "http/1.1"
        for path in ("/ok/1", "/ok/2"):
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a.org:{server.port}\r\n\r\n".encode())
            assert json.loads(read_answer(client).body)["target"] == path
    assert server.connections == 1
    assert {(event.scheme, event.verdict) for event in world.events} == {("https", "allowed")}


def test_a_large_body_goes_through_tls_both_ways(
    world: World, upstream_ca: CertificateAuthority, ca: CertificateAuthority
) -> None:
    server, proxy = secure(world, upstream_ca, ca)
    body = os.urandom(3_000_000)
    with greet(world, proxy, server.port, trusting(ca), "a.org") as client:
        client.sendall(
            f"PUT /ok/1 HTTP/1.1\r\nHost: a.org:{server.port}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        client.sendall(body)
        assert json.loads(read_answer(client).body)["size"] == len(body)
    assert server.requests[0].body == body


@pytest.mark.parametrize("host", ["b.org", "127.0.0.1", "sub.a.org"])
def test_net_15_host_and_sni_agree(
    world: World, upstream_ca: CertificateAuthority, ca: CertificateAuthority, host: str
) -> None:
    server, proxy = secure(world, upstream_ca, ca)
    with greet(world, proxy, server.port, trusting(ca), "a.org") as client:
        client.sendall(f"GET /ok/x HTTP/1.1\r\nHost: {host}:{server.port}\r\n\r\n".encode())
        answer = read_answer(client)
    assert answer.status == 403
    assert b"which TLS was made with" in answer.body
    assert server.connections == 0


def test_net_15_without_sni_the_host_is_the_address(
    world: World, upstream_ca: CertificateAuthority, ca: CertificateAuthority
) -> None:
    server, proxy = secure(world, upstream_ca, ca, "127.0.0.1")
    for host, status in (("a.org", 403), ("127.0.0.1", 200)):
        with greet(world, proxy, server.port, trusting(ca), None) as client:
            client.sendall(f"GET /ok/x HTTP/1.1\r\nHost: {host}:{server.port}\r\n\r\n".encode())
            assert read_answer(client).status == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["a.org\\x00.evil", "*.org", "_!"])
def test_a_name_that_is_none_gets_no_certificate(ca: CertificateAuthority, name: str) -> None:
    class Connection:
        context: object = None

    probe = Connection()
    assert ca._choose(probe, name, ca.context("a.org")) == ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME  # type: ignore[arg-type]  # the only part of SSLObject that is used
    assert probe.context is None
    assert ca._choose(probe, "A.org", ca.context("a.org")) is None  # type: ignore[arg-type]  # as above
    assert probe.context is ca.context("a.org")


@pytest.mark.parametrize("fault", ["another name", "another CA", "no TLS"])
def test_a_server_that_is_not_who_it_should_be_is_a_502(
    world: World, upstream_ca: CertificateAuthority, ca: CertificateAuthority, fault: str
) -> None:
    stubborn = CertificateAuthority(upstream_ca._certificate, upstream_ca._key).context("b.org")
    stubborn.sni_callback = None  # b.org, whatever it is asked for
    contexts = {
        "another name": stubborn,
        "another CA": CertificateAuthority.ephemeral().context("a.org"),
        "no TLS": None,
    }
    server = world.server(context=contexts[fault])
    proxy = world.proxy(server.port, ca=ca, upstream_context=trusting(upstream_ca))
    with greet(world, proxy, server.port, trusting(ca), "a.org") as client:
        client.sendall(f"GET /ok/x HTTP/1.1\r\nHost: a.org:{server.port}\r\n\r\n".encode())
        answer = read_answer(client)
    assert answer.status == 502
    assert server.requests == []
    assert world.events[-1].verdict == "failed"


def test_by_default_servers_are_judged_by_the_system(world: World, ca: CertificateAuthority) -> None:
    server = world.server(context=CertificateAuthority.ephemeral().context("a.org"))
    proxy = world.proxy(server.port, ca=ca)
    with greet(world, proxy, server.port, trusting(ca), "a.org") as client:
        client.sendall(f"GET /ok/x HTTP/1.1\r\nHost: a.org:{server.port}\r\n\r\n".encode())
        answer = read_answer(client)
    assert (answer.status, b"is not valid" in answer.body) == (502, True)


def test_tls_without_a_ca_and_plain_text_on_443_are_refused(world: World, ca: CertificateAuthority) -> None:
    server = world.server()
    proxy = world.proxy(server.port, ["* */*"])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        greet(world, proxy, server.port, trusting(ca), "a.org")
    assert "no CA" in world.events[-1].reason
    connection = world.intercept(proxy, 443)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a.org:443\r\n\r\n")
    assert read_answer(connection).status == 403


def test_a_program_that_does_not_trust_the_ca_leaves_an_event(world: World, ca: CertificateAuthority) -> None:
    server = world.server()
    proxy = world.proxy(server.port, ca=ca)
    with pytest.raises(ssl.SSLError):
        greet(world, proxy, server.port, trusting(CertificateAuthority.ephemeral()), "a.org")
    wait_until(lambda: bool(world.events))
    assert "TLS with the program failed" in world.events[-1].reason


def test_leaves_are_kept_and_not_without_end(ca: CertificateAuthority) -> None:
    first = ca.context("kept.org")
    assert ca.context("kept.org") is first
    for number in range(300):
        ca.context(f"n{number}.org")
    assert len(ca._contexts) == 256
    assert ca.context("kept.org") is not first


@pytest.mark.needs("command:openssl")
@pytest.mark.parametrize("kind", ["ephemeral", "ec", "rsa:2048", "ed25519"])
def test_openssl_accepts_what_each_kind_of_ca_signs(tmp_path: Path, kind: str) -> None:
    ca = CertificateAuthority.ephemeral() if kind == "ephemeral" else make_ca(tmp_path, kind)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    left, right = socket.socketpair()

    def serve() -> None:
        with right, ca.context("x.example.org").wrap_socket(right, server_side=True) as secure:
            secure.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with left, trusting(ca).wrap_socket(left, server_hostname="x.example.org") as client:
        der = client.getpeercert(binary_form=True)
        client.sendall(b"x")
    thread.join(10)
    assert der is not None
    (tmp_path / "leaf.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    command: list[str | Path] = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "x.example.org",
    ]
    done = subprocess.run(
        [*command, "-CAfile", tmp_path / "ca.pem", tmp_path / "leaf.pem"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wrong = [*command[:-1], "y.example.org", "-CAfile", tmp_path / "ca.pem", tmp_path / "leaf.pem"]
    assert subprocess.run(wrong, capture_output=True, check=False).returncode != 0


def make_ca(folder: Path, kind: str) -> CertificateAuthority:
    new = ["-newkey", kind] if kind != "ec" else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", *new, "-subj", "/CN=test CA", "-days", "2",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        check=True, capture_output=True,
    )  # fmt: skip
    policy = Policy(http_ca=str(folder / "cert.pem"), http_key=str(folder / "key.pem"), http_allow=["* */*"])
    made = CertificateAuthority.from_policy(policy)
    assert made is not None
    return made


@pytest.mark.needs("command:openssl")
def test_a_ca_that_cannot_sign_is_an_error_that_says_why(tmp_path: Path) -> None:
    make_ca(tmp_path, "ec")
    cert, key = (tmp_path / "cert.pem").read_bytes(), (tmp_path / "key.pem").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    make_ca(other, "ec")
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=x",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", tmp_path / "k", "-out", tmp_path / "c"],
        check=True, capture_output=True,
    )  # fmt: skip
    locked = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", tmp_path / "key.pem", "-passout", "pass:x"],
        check=True,
        capture_output=True,
    ).stdout
    for pair, words in {
        (b"junk", key): "no certificate in PEM",
        (cert, b"junk"): "no private key in PEM",
        (cert, locked): "encrypted",
        (cert, (other / "key.pem").read_bytes()): "not that of the CA",
        ((tmp_path / "c").read_bytes(), (tmp_path / "k").read_bytes()): "not one of a CA",
    }.items():
        with pytest.raises(CertificateError, match=words) as caught:
            CertificateAuthority.load(*pair)
        assert "PRIVATE KEY" not in str(caught.value)
    with pytest.raises(CertificateError, match="No such file"):
        CertificateAuthority.from_policy(Policy(http_ca="/nowhere/c", http_key="/nowhere/k", http_allow=["* */*"]))
    assert CertificateAuthority.from_policy(Policy(http_allow=["* */*"])) is None
    assert CertificateAuthority.from_policy(Policy(http_allow=["* */*"], http_ca_out="/x")) is not None


def test_a_bundle_gets_the_certificate_once(ca: CertificateAuthority) -> None:
    other = CertificateAuthority.ephemeral().pem
    for bundle in (other, other.rstrip(b"\n"), b"# a comment\n" + other, b""):
        spliced = splice_certificate(bundle, ca.pem)
        assert spliced.startswith(bundle)
        assert spliced.endswith(ca.pem)
        assert splice_certificate(spliced, ca.pem) == spliced
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=spliced.decode())
        assert len(context.get_ca_certs()) == 1 + bool(bundle)
    for other_format in (b"\xfe\xed\xfe\xed keystore", b"text"):
        with pytest.raises(CertificateError, match=r"store\.jks is no bundle"):
            splice_certificate(other_format, ca.pem, "store.jks")


def test_the_certificate_is_written_whole_and_replaces_a_link(tmp_path: Path, ca: CertificateAuthority) -> None:
    target = tmp_path / "target"
    target.write_text("keep")
    (tmp_path / "ca.pem").symlink_to(target)
    write_certificate(str(tmp_path / "ca.pem"), ca.pem)
    assert (tmp_path / "ca.pem").read_bytes() == ca.pem
    assert (tmp_path / "ca.pem").stat().st_mode & 0o777 == 0o644
    assert target.read_text() == "keep"
    assert sorted(os.listdir(tmp_path)) == ["ca.pem", "target"]
    with pytest.raises(CertificateError, match="cannot be written"):
        write_certificate(str(tmp_path / "none" / "ca.pem"), ca.pem)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CertificateError, match="cannot be written"):
        write_certificate(str(tmp_path / "folder"), ca.pem)
    assert sorted(os.listdir(tmp_path)) == ["ca.pem", "folder", "target"]


def test_no_key_is_written_anywhere(tmp_path: Path, ca: CertificateAuthority) -> None:
    before = {fd: _link(fd) for fd in os.listdir("/proc/self/fd")}
    ca.context("fresh.example.org")
    after = {fd: _link(fd) for fd in os.listdir("/proc/self/fd")}
    assert [place for fd, place in after.items() if "leaf" in place and before.get(fd) != place] == []
    assert b"PRIVATE" not in ca.pem
    assert "PRIVATE" not in repr(ca)
    assert shutil.which("openssl") is None or b"PRIVATE" not in splice_certificate(b"", ca.pem)


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""
