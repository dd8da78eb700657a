"""NET-21: a credential goes to the requests of its rule and nowhere else, and is seen by nobody on the way."""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import pickle
import socket
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interception import SECRET, World, read_answer

from sandlock_policy import Policy
from sandlock_policy.errors import RuleError
from sandlock_proxy import CredentialError, Credentials, Secret
from sandlock_proxy.authority import Authority
from sandlock_proxy.masking import Mask
from sandlock_proxy.secret import read_secret
from sandlock_proxy.target import parse_target

HEAD = "Host: a.org:{port}\r\n"


def ask(world: World, auth: list[str], first: str, *more: str) -> tuple[dict[str, list[str]], str]:
    """Send a request, and return the headers and the target that arrived."""
    server = world.server()
    proxy = world.proxy(server.port, ["* */*"], auth=auth)
    text = "\r\n".join([f"{first} HTTP/1.1", f"Host: a.org:{server.port}", *more, "", ""])
    assert world.ask(proxy, server.port, text.encode()).status == 200
    seen = server.requests[-1]
    return {name: seen.all(name) for name, _ in seen.headers}, seen.target


BASIC = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
QUOTED = "s3cr3t-Token%2Fvalue%2B1"


@pytest.mark.parametrize(
    ("rule", "sent", "header", "values"),
    [
        ("bearer TOKEN", (), "authorization", [f"Bearer {SECRET}"]),
        ("bearer TOKEN", ("Authorization: mine",), "authorization", [f"Bearer {SECRET}"]),
        ("bearer TOKEN add-only", ("Authorization: mine",), "authorization", ["mine"]),
        ("bearer TOKEN add-only", (), "authorization", [f"Bearer {SECRET}"]),
        ("basic:me TOKEN", (), "authorization", [BASIC]),
        ("header:X-Api-Key TOKEN", ("X-Other: 1",), "x-api-key", [SECRET]),
        ("header:X-Api-Key TOKEN", ("x-api-key: a", "X-API-KEY: b", "X_Api_Key: c"), "x-api-key", [SECRET]),
        ("header:X-Api-Key TOKEN add-only", ("x-api-key: a",), "x-api-key", ["a"]),
    ],
)
def test_headers_are_attached(world: World, rule: str, sent: tuple[str, ...], header: str, values: list[str]) -> None:
    headers, _ = ask(world, [f"GET a.org:{{port}}/ok/* {rule}"], "GET /ok/x", *sent)
    assert headers[header] == values
    assert "x_api_key" not in headers


@pytest.mark.parametrize(
    ("rule", "target", "arrived"),
    [
        ("query:key TOKEN", "/ok/x", f"/ok/x?key={QUOTED}"),
        ("query:key TOKEN", "/ok/x?a=1&key=mine&b", f"/ok/x?a=1&b&key={QUOTED}"),
        ("query:key TOKEN", "/ok/x?a=1&k%65y=mine;key=2", f"/ok/x?a=1&key={QUOTED}"),
        ("query:key TOKEN add-only", "/ok/x?key=mine", "/ok/x?key=mine"),
        ("query:key TOKEN add-only", "/ok/x?a", f"/ok/x?a&key={QUOTED}"),
    ],
)
def test_parameters_are_attached(world: World, rule: str, target: str, arrived: str) -> None:
    _, seen = ask(world, [f"GET a.org:{{port}}/ok/* {rule}"], f"GET {target}")
    assert seen == arrived


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("GET a.org:{port}/ok/* bearer TOKEN", "GET /other"),
        ("GET a.org:{port}/ok/* bearer TOKEN", "POST /ok/x"),
        ("GET b.org:{port}/ok/* bearer TOKEN", "GET /ok/x"),
        ("GET a.org:1/ok/* bearer TOKEN", "GET /ok/x"),
        ("GET a.org:{port}/ok/x bearer TOKEN", "GET /ok/x;y"),
        ("GET a.org:{port}/ok/* bearer TOKEN", "GET /ok/../x"),
        ("GET a.org:{port}/OK/* bearer TOKEN", "GET /ok/x"),
    ],
)
def test_only_the_requests_of_the_rule_get_it(world: World, rule: str, first: str) -> None:
    headers, target = ask(world, [rule], first)
    assert SECRET not in json.dumps([headers, target])
    honest, _ = ask(world, ["GET a.org:{port}/ok/* bearer TOKEN"], "GET /ok/x")
    assert SECRET in honest["authorization"][0]


def test_a_refused_request_never_touches_it(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, ["GET a.org:{port}/ok/*"], auth=["* */* bearer TOKEN"])
    answer = world.ask(proxy, server.port, b"GET /no HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n")
    assert answer.status == 403
    assert server.connections == 0


def test_a_host_that_leads_elsewhere_does_not_get_it(world: World) -> None:
    # The program connects to a server of its own choice and only says that this is a.org.
    world.names["a.org"] = ["127.0.0.2"]
    server = world.server()
    proxy = world.proxy(server.port, ["* */*"], auth=["* a.org:{port}/* bearer TOKEN"])
    request = b"GET /ok/x HTTP/1.1\r\nHost: a.org:{port}\r\n\r\n"
    assert world.ask(proxy, server.port, request).status == 403
    assert server.connections == 0
    world.names["a.org"] = ["127.0.0.1"]
    assert world.ask(proxy, server.port, request).status == 200
    assert SECRET.encode() in server.raw


def test_what_the_server_shows_of_it_is_masked(world: World) -> None:
    spellings = (SECRET, QUOTED, base64.b64encode(SECRET.encode()).decode(), BASIC.split()[1])

    def serve(connection: socket.socket) -> None:
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            got += connection.recv(1)
        assert SECRET.encode() in got
        body = " ".join(spellings).encode() + b" end"
        location = f"Location: https://a.org/?key={QUOTED}\r\nX-Echo: Bearer {SECRET}\r\n"
        connection.sendall(f"HTTP/1.1 302 Found\r\n{location}Transfer-Encoding: chunked\r\n\r\n".encode())
        for index in range(0, len(body), 3):  # cut anywhere
            piece = body[index : index + 3]
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        connection.recv(1)

    server = world.server(serve)
    proxy = world.proxy(server.port, auth=["* */* header:X-Key TOKEN", "* */* basic:me TOKEN"])
    answer = world.ask(proxy, server.port, b"GET /ok/x HTTP/1.1\r\nHost: a.org:{port}\r\nAccept-Encoding: gzip\r\n\r\n")
    assert answer.status == 302
    assert answer.headers["location"] == "https://a.org/?key=" + "*" * len(QUOTED)
    assert answer.headers["x-echo"] == "Bearer " + "*" * len(SECRET)
    assert answer.body == b" ".join(b"*" * len(one) for one in spellings) + b" end"


def test_an_answer_that_waits_is_not_held_back_by_the_mask(world: World) -> None:
    mask = Mask([Secret("T", "abcdef")])
    assert mask.feed(b"data: 1\n\n") == b"data: 1\n\n"
    assert mask.feed(b"xxabc") == b"xx"
    assert mask.feed(b"dez") == b"abcdez"


@given(st.lists(st.sampled_from([b"abab", b"ab", b"c", b"ababc", b"x", b""]), max_size=12))
def test_the_mask_finds_a_secret_however_it_is_cut(pieces: list[bytes]) -> None:
    mask = Mask([Secret("T", "ababc")])
    out = b"".join([*(mask.feed(piece) for piece in pieces), mask.finish()])
    assert out == b"".join(pieces).replace(b"ababc", b"*****")


def test_nothing_that_is_logged_raised_or_shown_has_it(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server = world.server()
    auth = ["* */* bearer TOKEN", "* */* query:key TOKEN"]
    proxy = world.proxy(server.port, auth=auth)
    for path in ("/ok/x", f"/ok/{SECRET}", "/no"):
        request = f"GET {path} HTTP/1.1\r\nHost: a.org:{server.port}\r\n\r\n".encode()
        world.ask(proxy, server.port, request)
    assert SECRET.encode() in server.raw  # the control: it was sent

    def leak(connection: socket.socket) -> None:
        got = connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + got + b"\r\n")

    broken = world.server(leak)
    connection = world.intercept(world.proxy(broken.port, auth=auth), broken.port)
    connection.sendall(f"GET /ok/x HTTP/1.1\r\nHost: a.org:{broken.port}\r\n\r\n".encode())
    while connection.recv(65536):
        pass
    assert [event.verdict for event in world.events][-2:] == ["allowed", "failed"]
    made = Credentials({"TOKEN": Secret("TOKEN", SECRET)}, ["GET a.org/* bearer TOKEN"])
    shown = [repr(world.events), repr(made), str(made), caplog.text, *capfd.readouterr(), repr(vars(made))]
    for text in shown:
        for spelling in (SECRET, QUOTED, BASIC):
            assert spelling not in text


def test_a_secret_shows_itself_to_reveal_only() -> None:
    secret = Secret("TOKEN", SECRET)
    assert secret.reveal() == SECRET
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!s:>80}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert SECRET not in text
        assert "TOKEN" in text
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            way(secret)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", ["", "qz\nqz", "qz\r\nX: y", "qz\0qz", " qz", "qz ", "qzé", "qz\x7f"])
def test_a_value_that_cannot_be_sent_is_an_error_without_it(value: str) -> None:
    with pytest.raises(CredentialError) as caught:
        Secret("TOKEN", value)
    assert "TOKEN" in str(caught.value)
    assert "qz" not in str(caught.value)


def test_secrets_come_from_variables_files_and_descriptors(tmp_path: Path) -> None:
    place = tmp_path / "token"
    place.write_text("from-file\n")
    read, write = os.pipe()
    os.write(write, b"from-fd\r\n")
    os.close(write)
    assert read_secret("A", "env:V", {"V": "from-env"}).reveal() == "from-env"
    assert read_secret("A", f"file:{place}", {}).reveal() == "from-file"
    assert read_secret("A", f"fd:{read}", {}).reveal() == "from-fd"
    os.close(read)  # it was left open
    for source, words in {
        "env:V": "the variable V, which is not set",
        f"file:{tmp_path}/none": "No such file",
        "fd:987654": "Bad file descriptor",
        "exec:x": "neither env:, file: nor fd:",
    }.items():
        with pytest.raises(CredentialError, match=words):
            read_secret("A", source, {})
    (tmp_path / "large").write_text("a" * 70_000)
    with pytest.raises(CredentialError, match="longer than") as caught:
        read_secret("A", f"file:{tmp_path}/large", {})
    assert "aaaa" not in "".join(traceback.format_exception(caught.value))


def test_a_policy_gives_credentials() -> None:
    policy = Policy(
        http_allow=["GET a.org/*"], credentials={"T": "env:V"}, http_auth=["GET a.org/* bearer T"], http_ports=[80]
    )
    assert repr(Credentials.from_policy(policy, {"V": SECRET})) == "Credentials(T)"


@pytest.mark.parametrize("header", ["Host", "content-length", "Transfer-Encoding", "Connection"])
def test_a_credential_cannot_change_the_framing(header: str) -> None:
    with pytest.raises(CredentialError, match="belongs to the proxy"):
        Credentials({"T": Secret("T", "5")}, [f"GET a.org/* header:{header} T"])
    with pytest.raises(CredentialError, match="there is no credential 'U'"):
        Credentials({"T": Secret("T", "5")}, ["GET a.org/* bearer U"])
    with pytest.raises(RuleError):
        Credentials({}, ["nonsense"])


def test_the_first_rule_for_a_place_counts() -> None:
    made = Credentials(
        {"A": Secret("A", "first-value"), "B": Secret("B", "second-value")},
        ["GET a.org/x/* bearer A", "GET a.org/* bearer B", "GET a.org/* header:X-B B"],
    )
    attached = made.attach("GET", Authority("a.org", 80), parse_target(b"/x/y"), ())
    assert attached is not None
    assert attached.add == ((b"Authorization", b"Bearer first-value"), (b"X-B", b"second-value"))
    assert "value" not in repr(attached)


def test_an_answer_without_a_credential_is_not_touched(world: World) -> None:
    server = world.server()
    proxy = world.proxy(server.port, auth=["* a.org:{port}/ok/secret bearer TOKEN"])
    connection = world.intercept(proxy, server.port)
    text = f"GET /ok/{QUOTED.replace('%', '-')} HTTP/1.1\r\nHost: a.org:{server.port}\r\nX: {SECRET}\r\n\r\n"
    connection.sendall(text.encode())
    assert SECRET in json.loads(read_answer(connection).body)["headers"][1][1]
