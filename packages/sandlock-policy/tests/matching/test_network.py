"""Verdicts of network rules on addresses and ports."""

from __future__ import annotations

import ipaddress
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy import Policy, PolicyError
from sandlock_policy.matching import NetworkRules, intercepted_ports, names_to_resolve
from sandlock_policy.rules.endpoints import Protocol, parse_endpoint

UNSPECIFIED = "0.0.0.0"  # noqa: S104 - connected to, not bound


def rules(*allow: str, deny: tuple[str, ...] = (), **names: tuple[str, ...]) -> NetworkRules:
    resolved = {name.replace("_", "."): addresses for name, addresses in names.items()}
    return NetworkRules.from_policy(Policy(net_allow=allow, net_deny=deny), resolved)


def test_net_01_nothing_is_allowed_by_an_empty_policy() -> None:
    made = rules()
    for address in ("1.1.1.1", "127.0.0.1", "::1", UNSPECIFIED):
        assert not made.verdict("tcp", address, 80).allowed
        assert not made.verdict("udp", address, 53).allowed
        assert not made.verdict("icmp", address).allowed
    assert not made.verdict_on_bind(8080).allowed
    assert not made.verdict_on_bind(0).allowed


def test_the_verdict_names_the_rule() -> None:
    made = rules("tcp://10.0.0.0/8:443", deny=("10.1.0.0/16",))
    assert made.verdict("tcp", "10.2.0.1", 443).rule == "network.allow[0] tcp://10.0.0.0/8:443"
    assert made.verdict("tcp", "10.1.0.1", 443).rule == "network.deny[0] 10.1.0.0/16"
    assert made.verdict("tcp", "10.2.0.1", 80).rule == ""


@pytest.mark.parametrize(
    ("protocol", "address", "port", "allowed"),
    [
        ("tcp", "10.0.0.1", 22, True),
        ("tcp", "::ffff:10.0.0.1", 22, True),
        ("tcp", bytes([10, 0, 0, 1]), 22, True),
        ("tcp", "10.0.0.2", 22, False),
        ("tcp", "10.0.0.1", 23, False),
        ("udp", "10.0.0.1", 22, False),
        ("udp", "1.2.3.4", 53, True),
        ("tcp", "2001:db8:ffff::1", 1, True),
        ("tcp", "2001:db9::1", 1, False),
        ("icmp", "9.9.9.9", 0, True),
        ("icmp", "9.9.9.8", 0, False),
        ("tcp", "9.9.9.9", 80, False),
        ("tcp", "127.0.0.1", 5000, True),
        ("tcp", UNSPECIFIED, 5000, True),
        ("tcp", "::1", 5000, False),
        ("tcp", "64:ff9b::10.0.0.1", 22, False),  # the translator decides where this goes
    ],
)
def test_protocol_address_and_port_must_all_agree(
    protocol: Protocol, address: str | bytes, port: int, *, allowed: bool
) -> None:
    made = rules("tcp://10.0.0.1:22", "udp://:53", "[2001:db8::/32]", "icmp://9.9.9.9", "tcp://127.0.0.1:5000-5010")
    assert made.verdict(protocol, address, port).allowed is allowed


def test_denial_alone_allows_the_rest_but_not_icmp() -> None:
    made = rules(deny=("private",))
    assert made.verdict("tcp", "1.1.1.1", 443).allowed
    assert made.verdict("udp", "2606:4700::1111", 53).allowed
    assert not made.verdict("icmp", "1.1.1.1").allowed
    assert not made.verdict("tcp", "169.254.169.254", 80).allowed


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::1", UNSPECIFIED, "::",
        "::1", "fe80::1%lo", "64:ff9b:1:7f00:0:100::", "2001:db8::5efe:127.0.0.1", "169.254.169.254", "fd00:ec2::254",
    ],
)  # fmt: skip
def test_net_04_no_spelling_passes_a_denial_of_private(spelling: str) -> None:
    made = rules("*", deny=("private",))
    assert made.verdict("tcp", "1.1.1.1", 80).allowed
    assert not made.verdict("tcp", spelling, 80).allowed


def test_a_denial_of_every_port_covers_port_zero_and_icmp() -> None:
    made = rules("*", "icmp://*", deny=("10.0.0.0/8", "tcp://11.0.0.0/8"))
    assert made.verdict("icmp", "12.0.0.1").allowed
    assert not made.verdict("icmp", "10.0.0.1").allowed
    assert not made.verdict("tcp", "10.0.0.1", 0).allowed
    assert made.verdict("icmp", "11.0.0.1").allowed  # tcp:// says what it is about


def test_a_wider_network_still_counts_for_the_ports_of_its_own() -> None:
    made = rules("tcp://10.0.0.0/8:80", "tcp://10.1.0.0/16:443", "tcp://10.1.2.3:22", "tcp://:7")
    for port, rule in {22: "[2]", 443: "[1]", 80: "[0]", 7: "[3]"}.items():
        assert rule in made.verdict("tcp", "10.1.2.3", port).rule
    assert not made.verdict("tcp", "10.1.2.3", 8080).allowed
    assert not made.verdict("tcp", "10.2.0.0", 443).allowed


networks = st.tuples(st.integers(0, 255), st.integers(0, 8)).map(
    lambda pair: f"10.0.0.{pair[0] >> pair[1] << pair[1]}/{32 - pair[1]}"
)
ports = st.tuples(st.integers(1, 12), st.integers(0, 4)).map(lambda pair: f"{pair[0]}-{pair[0] + pair[1]}")
endpoints = st.tuples(st.sampled_from(["", "tcp://", "udp://"]), networks, ports).map(lambda t: f"{t[0]}{t[1]}:{t[2]}")


@given(st.lists(endpoints, max_size=8), st.lists(endpoints, max_size=4), st.integers(0, 255), st.integers(1, 16))
def test_tables_say_what_a_linear_scan_says(allow: list[str], deny: list[str], last: int, port: int) -> None:
    address = ipaddress.ip_address(f"10.0.0.{last}")

    def scan(texts: list[str]) -> bool:
        for text in texts:
            end = parse_endpoint(text)
            inside = address in ipaddress.ip_network(end.target) and any(a <= port <= b for a, b in end.ports)
            if inside and "tcp" in end.protocols:
                return True
        return False

    expected = not scan(deny) and (scan(allow) or (bool(deny) and not allow))
    assert rules(*allow, deny=tuple(deny)).verdict("tcp", str(address), port).allowed is expected


def test_names_stand_for_the_addresses_they_had_at_launch() -> None:
    made = rules("tcp://a.org:443", deny=("b.org",), a_org=("93.1.2.3", "2606:2800::1"), b_org=("93.1.2.9",))
    assert made.verdict("tcp", "93.1.2.3", 443).rule == "network.allow[0] tcp://a.org:443"
    assert made.verdict("tcp", "2606:2800::1", 443).allowed
    assert not made.verdict("tcp", "93.1.2.4", 443).allowed  # NET-02
    assert made.verdict("tcp", "93.1.2.9", 443).rule == "network.deny[0] b.org"


def test_net_03_a_name_does_not_lead_to_this_machine_at_launch() -> None:
    made = rules("a.org", a_org=("93.1.2.3", "127.0.0.1", "::ffff:169.254.169.254", "10.0.0.5"))
    assert made.dropped == (("a.org", "127.0.0.1"), ("a.org", "::ffff:169.254.169.254"))
    assert not made.verdict("tcp", "127.0.0.1", 80).allowed
    assert not made.verdict("tcp", "169.254.169.254", 80).allowed
    assert made.verdict("tcp", "10.0.0.5", 80).allowed  # an intranet name that the user named
    assert rules("a.org", "127.0.0.0/8:1", a_org=("127.0.0.1",)).verdict("tcp", "127.0.0.1", 80).allowed
    assert rules("localhost:80", localhost=("127.0.0.1", "::1")).verdict("tcp", "::1", 80).allowed


def test_a_name_without_an_answer_is_an_error_that_names_it() -> None:
    with pytest.raises(PolicyError) as caught:
        rules("a.org", "tcp://b.org:80", b_org=("127.0.0.1",))
    first, second = caught.value.problems
    assert (first.field, first.value, first.reason) == ("network.allow[0]", "a.org", "the host a.org did not resolve")
    assert "b.org resolves to 127.0.0.1" in second.reason
    assert "127.0.0.1" in second.remedy


def test_net_02_a_learned_address_counts_for_its_time_only() -> None:
    now = [100.0]
    policy = Policy(net_allow=["tcp://*.example.org:443"])
    made = NetworkRules.from_policy(policy, clock=lambda: now[0])
    assert not made.verdict("tcp", "93.1.2.3", 443).allowed
    assert made.knows_name("a.b.example.org")
    assert not made.knows_name("example.org")
    assert not made.knows_name("aexample.org")
    assert made.learn("a.example.org", ["93.1.2.3"], 60) == ("93.1.2.3",)
    assert made.verdict("tcp", "93.1.2.3", 443).rule == "network.allow[0] tcp://*.example.org:443"
    assert not made.verdict("tcp", "93.1.2.3", 80).allowed
    assert not made.verdict("udp", "93.1.2.3", 443).allowed
    now[0] = 161.0
    assert not made.verdict("tcp", "93.1.2.3", 443).allowed


def test_net_02_an_address_of_the_launch_counts_for_its_time_only_where_names_are_asked_again() -> None:
    now = [100.0]
    policy = Policy(
        net_allow=["tcp://a.example:443", "tcp://localhost:80", "tcp://192.0.2.9:443"], net_deny=["b.example"]
    )
    names = {"a.example": ["93.1.2.3", "10.0.0.5"], "localhost": ["127.0.0.1"], "b.example": ["93.1.2.4"]}
    once = NetworkRules.from_policy(policy, names, clock=lambda: now[0])
    again = NetworkRules.from_policy(policy, names, clock=lambda: now[0], names_last_s=65)
    ways = [("93.1.2.3", 443), ("10.0.0.5", 443), ("127.0.0.1", 80), ("192.0.2.9", 443), ("93.1.2.4", 443)]

    def allowed(rules: NetworkRules) -> list[bool]:
        return [rules.verdict("tcp", address, port).allowed for address, port in ways]

    assert allowed(once) == allowed(again) == [True, True, True, True, False]
    assert again.verdict("tcp", "93.1.2.3", 443).rule == "network.allow[0] tcp://a.example:443"
    assert not again.verdict("tcp", "93.1.2.3", 80).allowed
    now[0] = 166.0
    assert allowed(once) == [True, True, True, True, False]
    assert allowed(again) == [False, False, True, True, False]
    assert again.verdict("tcp", "93.1.2.4", 443).rule, "a denial is no allowance: it stays"
    assert again.learn("a.example", ["10.0.0.5", "10.0.0.6"], 65) == ("10.0.0.5",), "it had it at the start"
    assert allowed(again) == [False, True, True, True, False]


def test_net_03_a_learned_name_does_not_lead_inside() -> None:
    made = NetworkRules.from_policy(Policy(net_allow=["*.example.org", "10.1.0.0/16:1"]))
    answers = ["93.1.2.3", "127.0.0.1", "10.0.0.1", "64:ff9b::10.0.0.1", "10.1.0.1"]
    assert made.learn("x.example.org", answers, 60) == ("93.1.2.3", "10.1.0.1")
    assert made.verdict("tcp", "10.1.0.1", 80).allowed
    assert not made.verdict("tcp", "10.0.0.1", 80).allowed


def test_net_03_a_rule_that_names_no_address_opens_none_for_names() -> None:
    answers = ["127.0.0.1", "169.254.169.254", "10.0.0.5"]
    anywhere = NetworkRules.from_policy(Policy(net_allow=["tcp://*:443", "*.example.org:8080"]))
    assert anywhere.learn("x.example.org", answers, 60) == ()
    assert not anywhere.verdict("tcp", "127.0.0.1", 8080).allowed
    resolved = {"db.corp": ["10.0.0.5"], "localhost": ["127.0.0.1"]}
    policy = Policy(net_allow=["db.corp:5432", "localhost:1", "*.example.org"], net_refresh=True)
    by_name = NetworkRules.from_policy(policy, resolved)
    assert by_name.learn("x.example.org", answers, 60) == ()
    assert not by_name.verdict("tcp", "10.0.0.5", 22).allowed
    # What the name had at launch stays its own; another private address does not count.
    assert by_name.learn("db.corp", ["10.0.0.6", "10.0.0.5"], 60) == ("10.0.0.5",)
    listed = NetworkRules.from_policy(Policy(net_allow=["*.example.org", "10.0.0.0/8:1"]))
    assert listed.learn("x.example.org", answers, 60) == ("10.0.0.5",)


def test_any_number_of_names_for_one_address_takes_no_room() -> None:
    now = [100.0]
    policy = Policy(net_allow=["*.example.org", "*.b.example.org:1", "exact.example.org:2"])
    made = NetworkRules.from_policy(policy, {"exact.example.org": ["93.1.2.3"]}, clock=lambda: now[0])
    made.learn("exact.example.org", ["93.1.2.3"], 3600)
    for turn in range(2):
        if turn:  # what the interpreter keeps for itself it has by now
            tracemalloc.start()
        for n in range(2000):
            made.learn(f"{n:0100d}.{turn}.b.example.org", ["93.1.2.3"], 3600)
    try:
        assert tracemalloc.get_traced_memory()[0] < 50_000  # it was 700 KB
    finally:
        tracemalloc.stop()
    assert made.verdict("tcp", "93.1.2.3", 1).allowed
    now[0] += 3601
    assert not made.verdict("tcp", "93.1.2.3", 1).allowed


def test_a_name_outside_the_rules_teaches_nothing() -> None:
    made = NetworkRules.from_policy(Policy(net_allow=["*.example.org"]))
    made.learn("evil.com", ["93.1.2.3"], 60)
    assert not made.verdict("tcp", "93.1.2.3", 80).allowed


def test_answers_without_end_do_not_fill_the_memory() -> None:
    made = NetworkRules.from_policy(Policy(net_allow=["*.example.org"]))
    for number in range(6000):
        made.learn("x.example.org", [str(ipaddress.ip_address(0x5D000000 + number))], 60)
    assert not made.verdict("tcp", "93.0.0.0", 80).allowed  # forgotten
    assert made.verdict("tcp", str(ipaddress.ip_address(0x5D000000 + 5999)), 80).allowed


def test_bind_ports_have_verdicts() -> None:
    made = NetworkRules.from_policy(Policy(net_allow_bind=[8080, "9000-9010"], net_deny_bind=["9005"]))
    assert made.verdict_on_bind(8080).rule == "network.allow_bind[0] 8080"
    assert made.verdict_on_bind(9005).rule == "network.deny_bind[0] 9005"
    assert not made.verdict_on_bind(0).allowed
    assert NetworkRules.from_policy(Policy(net_allow_bind=["*"])).verdict_on_bind(0).allowed
    denied = NetworkRules.from_policy(Policy(net_deny_bind=[22]))
    assert denied.verdict_on_bind(80).allowed
    assert not denied.verdict_on_bind(22).allowed


def test_rules_about_requests_reach_their_hosts_on_intercepted_ports_only() -> None:
    policy = Policy(http_allow=["GET a.org/*", "GET b.org:8080/*"])
    assert intercepted_ports(policy) == (80,)
    assert names_to_resolve(policy) == ("a.org",)
    made = NetworkRules.from_policy(policy, {"a.org": ["93.1.2.3"]})
    assert made.verdict("tcp", "93.1.2.3", 80).rule == "http.allow[0] GET a.org/*"
    assert not made.verdict("tcp", "93.1.2.3", 443).allowed  # without a CA nobody would see the requests
    assert intercepted_ports(Policy(http_allow=["GET a.org/*"], http_inject_ca=["/ca.pem"])) == (80, 443)
    assert intercepted_ports(Policy(http_allow=["GET a.org/*"], http_ports=[8080])) == (8080,)
    assert intercepted_ports(Policy(net_allow=["a.org"])) == ()
