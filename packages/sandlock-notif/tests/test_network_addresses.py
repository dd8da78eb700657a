"""Socket addresses mean here what they mean to the kernel."""

from __future__ import annotations

import socket
import struct
from errno import EAFNOSUPPORT, EINVAL

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_notif import Refusal
from sandlock_notif.handlers.network.addresses import Inet, bind_target, connect_target, send_target

V4, V6 = socket.AF_INET, socket.AF_INET6
FOUR = struct.pack("=H", V4) + struct.pack("!H4s8x", 80, bytes((192, 0, 2, 1)))
SIX = struct.pack("=H", V6) + struct.pack("!HI16s", 80, 5, socket.inet_pton(V6, "fe80::1")) + struct.pack("=I", 3)


def errno_of(call: object, *arguments: object, **more: object) -> int:
    assert callable(call)
    with pytest.raises(Refusal) as caught:
        call(*arguments, **more)
    return caught.value.errno


def test_each_field_is_read_and_written_back() -> None:
    four = connect_target(V4, FOUR, stream=True)
    assert four == Inet(V4, bytes((192, 0, 2, 1)), 80)
    assert four.pack() == FOUR
    six = connect_target(V6, SIX, stream=True)
    assert six == Inet(V6, socket.inet_pton(V6, "fe80::1"), 80, 5, 3)
    assert six.pack() == SIX
    short = connect_target(V6, SIX[:24], stream=True)
    assert short is not None
    assert short.scope == 0


def test_net_04_canonical_forms() -> None:
    def form(host: str) -> str:
        family = V6 if ":" in host else V4
        return Inet(family, socket.inet_pton(family, host), 1).canonical().host

    assert form("0.0.0.0") == "127.0.0.1"  # noqa: S104
    assert form("::") == "::1"
    assert form("::ffff:0.0.0.0") == "127.0.0.1"
    assert form("::ffff:192.0.2.1") == "192.0.2.1"
    assert form("64:ff9b::7f00:1") == "64:ff9b::7f00:1"
    mapped = Inet(V6, socket.inet_pton(V6, "::ffff:0.0.0.0"), 1).canonical()
    assert (mapped.family, len(mapped.address)) == (V6, 16)
    assert mapped.is_loopback()
    assert Inet(V4, bytes((127, 9, 9, 9)), 1).is_loopback()
    assert not Inet(V4, bytes((128, 0, 0, 1)), 1).is_loopback()
    assert Inet(V4, bytes((224, 0, 0, 1)), 1).is_multicast()
    assert Inet(V6, socket.inet_pton(V6, "ff02::1"), 1).is_multicast()


def test_endpoints_are_spelled_as_rules() -> None:
    assert Inet(V4, bytes((192, 0, 2, 1)), 80).endpoint("tcp") == "tcp://192.0.2.1:80"
    assert Inet(V6, socket.inet_pton(V6, "fe80::1"), 53).endpoint("udp") == "udp://[fe80::1]:53"
    assert Inet(V6, socket.inet_pton(V6, "fe80::1"), 0).endpoint("icmp") == "icmp://[fe80::1]"


def test_families_that_do_not_fit_are_the_errors_of_the_kernel() -> None:
    assert connect_target(V4, bytes(2), stream=True) is None
    assert connect_target(V6, bytes(28), stream=False) is None
    assert errno_of(connect_target, V4, FOUR[:15], stream=True) == EINVAL
    assert errno_of(connect_target, V4, b"\2", stream=True) == EINVAL
    assert errno_of(connect_target, V4, SIX, stream=True) == EAFNOSUPPORT
    assert errno_of(connect_target, V6, FOUR, stream=True) == EINVAL
    assert errno_of(connect_target, V6, FOUR.ljust(28, b"\0"), stream=True) == EAFNOSUPPORT
    assert connect_target(V6, FOUR, stream=False) == Inet(V4, bytes((192, 0, 2, 1)), 80)
    assert errno_of(bind_target, V4, bytes(4) + b"\1" + bytes(11)) == EAFNOSUPPORT
    assert bind_target(V4, bytes(16)) == Inet(V4, bytes(4), 0)


def test_a_send_to_no_family_is_ipv4_or_to_nobody() -> None:
    assert send_target(V4, bytes(2) + FOUR[2:]) == Inet(V4, bytes((192, 0, 2, 1)), 80)
    assert send_target(V6, bytes(28)) is None
    assert send_target(V6, FOUR) == Inet(V4, bytes((192, 0, 2, 1)), 80)
    assert errno_of(send_target, V6, struct.pack("=H", 1) + bytes(26)) == EINVAL


@given(st.sampled_from([V4, V6]), st.binary(max_size=128), st.booleans())
def test_any_bytes_are_an_address_or_a_refusal(domain: int, raw: bytes, stream: bool) -> None:
    def connecting() -> Inet | None:
        return connect_target(domain, raw, stream=stream)

    def sending() -> Inet | None:
        return send_target(domain, raw)

    def binding() -> Inet | None:
        return bind_target(domain, raw)

    for parse in (connecting, sending, binding):
        try:
            target = parse()
        except Refusal as refusal:
            assert refusal.errno in (EINVAL, EAFNOSUPPORT)  # noqa: PT017  # some inputs are fine
            continue
        if target is not None:
            assert len(target.pack()) in (16, 28)
            assert target.canonical().canonical() == target.canonical()
