"""The grammar of network rules: `[tcp://|udp://|icmp://]TARGET[:PORTS]`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.endpoints import Endpoint, Protocol, check_endpoint, parse_endpoint

ALL = ((1, 65535),)
BOTH: tuple[Protocol, ...] = ("tcp", "udp")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("example.org", Endpoint(BOTH, "host", "example.org")),
        ("Example.ORG.:443", Endpoint(BOTH, "host", "example.org", ((443, 443),))),
        ("tcp://example.org:80,443", Endpoint(("tcp",), "host", "example.org", ((80, 80), (443, 443)))),
        ("udp://*.example.org:53", Endpoint(("udp",), "wildcard", "example.org", ((53, 53),))),
        ("icmp://10.0.0.1", Endpoint(("icmp",), "address", "10.0.0.1")),
        ("tcp://:443", Endpoint(("tcp",), "any", "", ((443, 443),))),
        ("TCP://*:443", Endpoint(("tcp",), "any", "", ((443, 443),))),
        (":8000-8010", Endpoint(BOTH, "any", "", ((8000, 8010),))),
        ("*", Endpoint(BOTH, "any", "")),
        ("tcp://", Endpoint(("tcp",), "any", "")),
        ("tcp://*:*", Endpoint(("tcp",), "any", "")),
        ("[::1]:22", Endpoint(BOTH, "address", "::1", ((22, 22),))),
        ("[2001:DB8::0]", Endpoint(BOTH, "address", "2001:db8::")),
        ("[2001:db8::/32]:1-5,3-9,10", Endpoint(BOTH, "network", "2001:db8::/32", ((1, 10),))),
        ("[2001:db8::]/32", Endpoint(BOTH, "network", "2001:db8::/32")),
        ("10.0.0.0/8:22", Endpoint(BOTH, "network", "10.0.0.0/8", ((22, 22),))),
        ("0.0.0.0/0", Endpoint(BOTH, "network", "0.0.0.0/0")),
        ("[::ffff:10.0.0.1]", Endpoint(BOTH, "address", "10.0.0.1")),
        ("private", Endpoint(BOTH, "private", "")),
        ("xn--bcher-kva.example", Endpoint(BOTH, "host", "xn--bcher-kva.example")),
    ],
)
def test_each_form_is_understood(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("", "the rule is empty", 0),
        ("http://a.org", "'http' is not a protocol here", 0),
        ("sctp://a.org", "'sctp' is not a protocol here", 0),
        ("a.org/path", "a network rule has no path", 5),
        ("tcp://a.org:443/x", "'443/x' is not a port", 15),
        ("::1", "an IPv6 address needs brackets", 0),
        ("fe80::/10", "an IPv6 address needs brackets", 0),
        ("[::1", "`\\[` has no `\\]`", 0),
        ("[::1]x", "'x' cannot follow the target", 5),
        ("[fe80::1%eth0]", "an address in a rule has no zone", 8),
        ("[10.0.0.1]", "is not an IPv6 address", 1),
        ("[::g]", "'::g' is not an address: 'g' cannot be in one", 3),
        ("[1::2::3]:80", "'1::2::3' is not an address", 1),
        ("10.0.0.1/8", "has bits behind its prefix", 0),
        ("10.0.0.0/33", "'33' is not a prefix length", 9),
        ("10.0.0.0/", "'' is not a prefix length", 9),
        ("[::ffff:10.0.0.0]/104", "a network of IPv4-mapped addresses", 1),
        ("127.1", "'127.1' is not an address: IPv4 has four numbers", 0),
        ("0x7f000001", "would be read as an address", 0),
        ("tcp://2130706433", "is not an address: '2130706433' is not a number from 0 to 255", 6),
        ("010.0.0.1", "is not an address: '010' is not a number", 0),
        ("udp://10.0.256.1:53", "'256' is not a number from 0 to 255", 11),
        ("10..0.1", "'' is not a number", 3),
        ("a..b", "'' is not a label", 2),
        ("-a.org", "'-a' is not a label", 0),
        ("a_b!.org", "'!' cannot be in a host name", 3),
        ("a.*.org", "`\\*` stands for whole labels in front only", 2),
        ("*a.org", "`\\*` stands for whole labels in front only", 0),
        ("x" * 64 + ".org", "is not a label", 0),
        ("bücher.example", "is not ASCII", 0),
        ("user@a.org", "'@' cannot be in a host name", 4),
        ("icmp://a.org:1", "ICMP has no ports", 12),
        ("a.org:", "'' is not a port", 6),
        ("a.org:0", "0 is not a port from 1", 6),
        ("a.org:65536", "65536 is not a port from 1", 6),
        ("a.org:80,", "'' is not a port", 9),
        ("a.org:80,x", "'x' is not a port", 9),
        ("a.org:9-5", "ends before it starts", 6),
        ("a.org:5-", "'' is not a port", 8),
        ("tcp://:443 ", "'443 ' is not a port", 10),
        ("tcp:// :443", "' ' cannot be in a host name", 6),
        ("a.org:٣", "is not a port", 6),
    ],
)
def test_a_fault_is_named_and_pointed_at(text: str, reason: str, position: int | None) -> None:
    with pytest.raises(RuleError, match=reason) as caught:
        parse_endpoint(text)
    assert position is None or caught.value.position == position


def test_remedies_say_what_to_write() -> None:
    for text, remedy in {
        "10.0.0.1/8": "write 10.0.0.0/8",
        "::1": "write [::1]",
        "bücher.example": "write 'xn--bcher-kva.example'",
        "a.org:9-5": "write 5-9",
        "10.0.0.08": "write 8",
        "127.1": "write such as 10.0.0.1",
        "[::ffff:10.0.0.0]/104": "write 10.0.0.0/8",
        "icmp://a.org:1": "write icmp://a.org",
    }.items():
        with pytest.raises(RuleError) as caught:
            parse_endpoint(text)
        assert caught.value.remedy == remedy


def test_what_is_not_text_is_refused() -> None:
    for value in (443, None, b"a.org", ["a.org"]):
        with pytest.raises(RuleError, match="is not a network rule"):
            check_endpoint(value)


labels = st.from_regex(r"\A[a-z]([a-z0-9-]{0,8}[a-z0-9])?\Z")
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
targets = st.one_of(
    st.sampled_from(["", "*", "private"]),
    hosts,
    hosts.map(lambda host: f"*.{host}"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.builds(lambda a, bits: f"{a >> bits << bits & 0xFFFFFFFF}", st.integers(0, 2**32 - 1), st.integers(0, 31)).map(
        lambda n: ".".join(str(int(n) >> shift & 255) for shift in (24, 16, 8, 0)) + "/32"
    ),
)
port_lists = st.lists(
    st.tuples(st.integers(1, 65535), st.integers(0, 100)).map(lambda p: f"{p[0]}-{min(p[0] + p[1], 65535)}"),
    min_size=1,
    max_size=4,
).map(",".join)


@given(st.sampled_from(["", "tcp://", "udp://"]), targets, st.one_of(st.none(), port_lists))
def test_the_canonical_spelling_means_the_same(scheme: str, target: str, ports: str | None) -> None:
    text = f"{scheme}{target}" if ports is None else f"{scheme}{target}:{ports}"
    if not text:
        return
    endpoint = parse_endpoint(text)
    assert parse_endpoint(str(endpoint)) == endpoint
    assert check_endpoint(str(endpoint)) == str(endpoint)


@given(st.text(alphabet="tcpudim:/.*[]-,%0123456789abx@ \0é", max_size=30))
def test_any_text_is_either_a_rule_or_a_rule_error_inside_the_text(text: str) -> None:
    try:
        parse_endpoint(text)
    except RuleError as fault:
        assert fault.position is None or 0 <= fault.position <= len(text)  # noqa: PT017 - both outcomes are fine
