"""Names: what a program is told is what it may connect to, and nothing is asked for names that no rule speaks of."""

from __future__ import annotations

import asyncio
import struct
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netlab import denied, run, serve, tables_of

from sandlock_notif.content.dns import AAAA, NO_ERROR, NO_NAME, A, parse_question, reply
from sandlock_notif.content.hosts import RESOLVER_ADDRESS, hosts_file, needs_resolver, resolver_file
from sandlock_notif.handlers.network import posture_of
from sandlock_notif.resolver import Resolver
from sandlock_policy import Policy
from sandlock_policy.errors import PolicyError
from sandlock_policy.matching import NetworkRules

QUERY = """
def ask(name, kind=1, server="SERVER"):
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)
    with socket.socket() as s:
        s.settimeout(10); s.connect((server, 53)); s.sendall(struct.pack("!H", len(query)) + query)
        size = struct.unpack("!H", s.recv(2))[0]; got = s.recv(size)
    _, flags, _, count, _, _ = struct.unpack_from("!HHHHHH", got)
    if kind != 1: return flags & 15, count
    return flags & 15, [socket.inet_ntoa(got[len(query) + 16 * i + 12:][:4]) for i in range(count)]
""".replace("SERVER", RESOLVER_ADDRESS)


def query(name: bytes, kind: int = A) -> bytes:
    return struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1)


def test_a_question_is_read_and_answered_by_its_kind() -> None:
    question = parse_question(query(b"\3WWW\7example\0"))
    assert (question.name, question.kind, question.recursion) == ("www.example", A, True)
    answer = reply(question, NO_ERROR, ["192.0.2.1", "2001:db8::1"], 60)
    assert struct.unpack_from("!HHHHHH", answer) == (7, 0x8180, 1, 1, 0, 0)
    assert answer.endswith(struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + bytes((192, 0, 2, 1)))
    six = reply(parse_question(query(b"\1a\0", AAAA)), NO_ERROR, ["192.0.2.1", "2001:db8::1"], 60)
    assert struct.unpack_from("!HHHHHH", six)[3] == 1
    assert struct.unpack_from("!HHHHHH", reply(question, NO_NAME))[1] & 15 == 3


@pytest.mark.parametrize(
    "message",
    [b"", b"\0" * 11, query(b"\3ww"), query(b"\300\14"), query(b"\1.\0"), query(b"\2a\0\0"), query(b"\77" + b"a" * 62),
     b"\0\7\200\0" + query(b"\1a\0")[4:], query(b"\1a\0")[:-2], query(b"\77" + b"a" * 63 + b"\77" + b"a" * 63 +
     b"\77" + b"a" * 63 + b"\77" + b"a" * 63 + b"\0"), query(b"\1a\0")[:-2] + b"\0\3"],
)  # fmt: skip
def test_what_is_no_plain_question_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_question(message)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_question_or_a_value_error(data: bytes) -> None:
    try:
        question = parse_question(data)
    except ValueError:
        return
    assert reply(question, NO_ERROR, ["192.0.2.1"], 1)[:2] == data[:2]


def test_hosts_lists_what_may_be_reached_and_refreshed_names_are_left_to_the_resolver() -> None:
    policy = Policy(net_allow=["tcp://a.example:443", "b.example"])
    resolved = {"a.example": ("192.0.2.1", "127.0.0.1"), "b.example": ("2001:db8::1",)}
    local = b"127.0.0.1\tlocalhost\n::1\tlocalhost\n::1\tip6-localhost ip6-loopback\n"
    assert hosts_file(policy, resolved) == local + b"192.0.2.1\ta.example\n2001:db8::1\tb.example\n"
    assert not needs_resolver(policy)
    narrow = hosts_file(Policy(net_allow=["localhost:1"]), {"localhost": ("127.0.0.1",)})
    assert narrow == b"127.0.0.1\tlocalhost\n::1\tip6-localhost ip6-loopback\n"
    assert b"nameserver" not in resolver_file(policy)
    fresh = policy.replace(net_refresh=True)
    assert hosts_file(fresh, resolved) == local
    assert resolver_file(fresh).startswith(b"nameserver 127.53.53.53\noptions use-vc")
    with pytest.raises(PolicyError, match=r"a\.example"):
        hosts_file(policy, {"b.example": ("2001:db8::1",)})


def test_a_wildcard_needs_the_resolver_and_fixes_nothing() -> None:
    assert posture_of(Policy(net_allow=["*.example.org"])).resolves
    assert not posture_of(Policy(net_allow=["*.example.org"])).fixed
    assert posture_of(Policy(net_allow=["example.org"])).fixed


@pytest.mark.needs("seccomp", level=2)
def test_net_02_net_03_an_answer_may_be_connected_to_and_only_an_answer() -> None:
    asked: list[str] = []

    async def lookup(name: str) -> tuple[list[str], int]:
        asked.append(name)
        return {"www.example.org": ["127.0.0.9"], "evil.example.org": ["127.0.0.1", "169.254.169.254"]}[name], 60

    policy = Policy(net_allow=["tcp://*.example.org", "tcp://127.0.0.9:1"])
    with serve("127.0.0.9") as server:
        code = (
            QUERY
            + f"""
tell(tcp("127.0.0.9", {server.port}))
tell(lambda: ask("www.example.org"))
tell(tcp("127.0.0.9", {server.port}))
tell(lambda: ask("evil.example.org"))
tell(tcp("127.0.0.1", {server.port}))
tell(lambda: ask("www.other.org")); tell(lambda: ask("secret-data.example.com"))
tell(lambda: ask("www.example.org", 15))
tell(tcp("{RESOLVER_ADDRESS}", 54)); tell(lambda: ask("x.org", server="127.0.0.53"))
"""
        )
        outcome = run(code, policy, tables=tables_of(policy, lookup=lookup))
    assert outcome.output.decode().splitlines() == [
        "ECONNREFUSED", "(0, ['127.0.0.9'])", "HELLO", "(3, [])", "ECONNREFUSED", "(3, [])", "(3, [])", "(0, 0)",
        "ECONNREFUSED", "ECONNREFUSED",
    ]  # fmt: skip
    assert asked == ["www.example.org", "evil.example.org"]
    assert ("connect", "--net-allow www.other.org") in denied(outcome)


@pytest.mark.needs("seccomp", level=2)
def test_a_lookup_that_fails_or_hangs_up_is_a_failure_and_the_next_one_works() -> None:
    async def lookup(name: str) -> tuple[list[str], int]:
        if name.startswith("bad"):
            raise OSError(5, "no server")
        return ["192.0.2.1"], 60

    policy = Policy(net_allow=["tcp://*.example.org"])
    code = (
        QUERY
        + f"""
with socket.create_connection(("{RESOLVER_ADDRESS}", 53)) as s: s.sendall(b"\\0\\5hello"); print(s.recv(10))
tell(lambda: ask("bad.example.org")); tell(lambda: ask("good.example.org"))
"""
    )
    outcome = run(code, policy, tables=tables_of(policy, lookup=lookup))
    assert outcome.output.decode().splitlines() == ["b''", "(2, [])", "(0, ['192.0.2.1'])"]


def test_names_that_nobody_answers_for_hold_up_no_other_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def getaddrinfo(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name.startswith("slow"):
            release.wait(60)
        return [(2, 1, 6, "", ("93.1.2.3", 0))]

    async def attack() -> tuple[bytes, set[bool]]:
        slow, other = (Resolver(NetworkRules.from_policy(policy)) for _ in range(2))
        stuck = [
            asyncio.ensure_future(slow.answer(parse_question(query(b"\5slow%d\7example\0" % n)))) for n in range(8)
        ]
        try:
            await asyncio.sleep(0)
            found = await asyncio.wait_for(other.answer(parse_question(query(b"\4fast\7example\0"))), 20)
            daemons = {one.daemon for one in threading.enumerate() if one.name.startswith("sandlock-names")}
            assert asyncio.get_running_loop()._default_executor is None  # type: ignore[attr-defined]
            return found, daemons
        finally:
            release.set()
            for one in stuck:
                one.cancel()
            await asyncio.gather(slow.close(), other.close(), *stuck, return_exceptions=True)

    policy = Policy(net_allow=["*.example"])
    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    found, daemons = asyncio.run(attack())
    assert found.endswith(bytes((93, 1, 2, 3)))
    assert daemons == {True}
