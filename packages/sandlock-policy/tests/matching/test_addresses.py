"""One form per address (NET-04), and the ranges that `private` names."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.matching.addresses import canonical_address, embedded_ipv4, is_local, is_private, parse_value

UNSPECIFIED = "0.0.0.0"  # noqa: S104 - connected to, not bound


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("127.0.0.1", "127.0.0.1"),
        (UNSPECIFIED, "127.0.0.1"),
        ("::", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:0.0.0.0", "127.0.0.1"),
        ("::FFFF:7f00:1", "127.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::0", "2001:db8::"),
        ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
    ],
)
def test_net_04_every_spelling_has_one_canonical_form(spelling: str, canonical: str) -> None:
    assert canonical_address(spelling) == ipaddress.ip_address(canonical).packed


@given(st.ip_addresses())
def test_text_and_bytes_mean_the_same(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert parse_value(str(address)) == parse_value(address.packed)
    assert canonical_address(canonical_address(address.packed)) == canonical_address(address.packed)


@given(st.ip_addresses(v=4))
def test_net_04_a_mapped_address_is_the_ipv4_address(address: ipaddress.IPv4Address) -> None:
    assert parse_value(f"::ffff:{address}") == parse_value(str(address))


@pytest.mark.parametrize(
    "text",
    [
        "::10.1.2.3",
        "::ffff:0:10.1.2.3",
        "64:ff9b::10.1.2.3",
        "64:ff9b:1:0a01:2:300::",  # RFC 6052, 2.4, the form of a /48
        "64:ff9b:1:0a:1:203::",  # a /56
        "64:ff9b:1::10.1.2.3",
        "2002:0a01:0203::1",
        "2001:0:0a01:0203::1",
        "2001:0:1:1::f5fe:fdfc",
        "2001:db8::5efe:10.1.2.3",
        "2001:db8::200:5efe:10.1.2.3",
    ],
)
def test_net_04_ipv4_inside_ipv6_is_found(text: str) -> None:
    assert int(ipaddress.ip_address("10.1.2.3")) in embedded_ipv4(int(ipaddress.ip_address(text)))


def test_an_ordinary_address_holds_no_other() -> None:
    assert embedded_ipv4(int(ipaddress.ip_address("2606:4700::6810:84e5"))) == ()


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1", "127.8.9.1", "169.254.169.254", "172.31.0.1", "192.168.1.1", "100.100.100.200", UNSPECIFIED,
        "0.1.2.3",
        "192.0.0.192", "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::", "fd00:ec2::254", "fd20:ce::254",
        "fe80::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "2002:7f00:1::",
        "::127.0.0.1",
    ],
)  # fmt: skip
def test_net_03_what_is_not_the_internet_is_private(text: str) -> None:
    assert is_private(text)


@pytest.mark.parametrize("text", ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::1.1.1.1", "2002:101:101::"])
def test_the_internet_is_not_private(text: str) -> None:
    assert not is_private(text)
    assert not is_local(text)


@given(st.ip_addresses(v=4))
def test_everything_that_the_standard_library_calls_private_unicast_is_private(address: ipaddress.IPv4Address) -> None:
    documentation = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "192.31.196.0/24", "192.52.193.0/24")
    if any(address in ipaddress.ip_network(net) for net in documentation):
        return
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert is_private(str(address))


@pytest.mark.parametrize("bad", ["127.1", "0x7f000001", "", "a.org", "1.2.3.4:80", b"", b"abc", b"x" * 17])
def test_what_is_no_address_is_refused(bad: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"address|bytes"):
        parse_value(bad)


def test_net_04_the_kernel_connects_the_unspecified_address_to_loopback() -> None:
    # The canonical form must be what this kernel does, or the verdict is about another host.
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect((UNSPECIFIED, server.getsockname()[1]))
        assert client.getpeername()[0] == "127.0.0.1"
        server.accept()[0].close()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        client.bind(("::ffff:127.0.0.1", 0))
        client.connect(("::", server.getsockname()[1]))  # why `::` also counts as 127.0.0.1 when something is denied
        assert client.getpeername()[0] == "::ffff:127.0.0.1"
        server.accept()[0].close()
