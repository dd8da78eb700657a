"""Every family, type and protocol of a socket has a verdict in the filter, and plain data needs none."""

from __future__ import annotations

import itertools

import pytest
from netlab import tables_of

from sandlock_arch import get
from sandlock_notif import filter_rules
from sandlock_notif.handlers.network import network_filter_rules, posture_of
from sandlock_policy import Policy
from sandlock_policy.seccomp.compile import compile_spec
from sandlock_policy.seccomp.opcodes import RET_ALLOW, RET_USER_NOTIF
from sandlock_policy.seccomp.rules import FilterSpec
from sandlock_policy.seccomp.simulate import simulate

ARCH = get("x86_64")
POLICIES = {
    "tcp": Policy(net_allow=["tcp://192.0.2.1"]),
    "udp": Policy(net_allow=["udp://192.0.2.1"]),
    "both": Policy(net_allow=["192.0.2.1"]),
    "icmp": Policy(net_allow=["icmp://192.0.2.1"]),
    "all": Policy(net_allow=["*"]),
    "deny": Policy(net_deny=["private"]),
    "bind": Policy(net_allow_bind=[8080]),
    "unix": Policy(unix_allow=["/run/x"]),
    "http": Policy(http_allow=["GET example.org/*"]),
}
FAMILIES = [*range(50), 0xFFFF, 1 << 31]
KINDS = [1, 2, 3, 4, 5, 6, 10]
PROTOCOLS = [0, 1, 6, 17, 33, 58, 132, 136, 255, 256, 262]


def program(policy: Policy) -> bytes:
    return compile_spec(
        ARCH, FilterSpec((*network_filter_rules(policy), *filter_rules(tables_of(policy, **extra(policy)))))
    )


def extra(policy: Policy) -> dict[str, object]:
    return {"resolved": {"example.org": ("192.0.2.1",)}} if policy.http_allow else {}


def verdict(code: bytes, call: str, *arguments: int) -> int:
    return simulate(code, nr=ARCH.syscalls[call], arch=ARCH.audit_arch, arguments=arguments).action


@pytest.mark.parametrize("name", POLICIES)
def test_ll_20_only_what_has_a_verdict_can_be_made(name: str) -> None:
    policy = POLICIES[name]
    posture = posture_of(policy)
    code = program(policy)
    made = set()
    for family, kind, protocol in itertools.product(FAMILIES, KINDS, PROTOCOLS):
        for flags in (0, 0o2004000):
            got = verdict(code, "socket", family, kind | flags, protocol)
            if got == RET_ALLOW:
                made.add((family, kind, protocol))
            elif got == RET_USER_NOTIF:
                assert (family, protocol) == (16, 0)
                assert kind in (2, 3)
                assert posture.inet
    allowed = {(1, kind) for kind in ((1, 2, 3, 5) if posture.sends else (1, 5))}
    for family, kind, protocol in made:
        if family == 1:
            assert (family, kind) in allowed
        else:
            assert (kind, protocol) in {(1, 0), (1, 6), (2, 0), (2, 17), (2, 1), (2, 58)}
            assert protocol not in (1, 58) or (family, protocol) in {(2, 1), (10, 58)}
    assert {family for family, _, _ in made} == ({1, 2, 10} if posture.inet else {1})
    assert any(kind == 2 and family == 2 and protocol == 0 for family, kind, protocol in made) == (
        posture.udp or posture.icmp  # ping asks a UDP socket for its own address
    )


@pytest.mark.parametrize("name", ["tcp", "http", "all"])
def test_a_program_without_judged_datagrams_sends_without_being_asked(name: str) -> None:
    code = program(POLICIES[name])
    for call in ("sendto", "sendmsg", "sendmmsg", "recvmsg", "recvfrom", "write", "read"):
        assert verdict(code, call, 3, 0x1000, 1, 0, 0x2000, 16) == RET_ALLOW
    assert verdict(code, "connect", 3, 0x1000, 16) == RET_USER_NOTIF


@pytest.mark.parametrize("name", ["both", "udp", "icmp", "deny", "bind", "unix"])
def test_plain_data_is_never_asked_about_and_named_data_always(name: str) -> None:
    code = program(POLICIES[name])
    assert verdict(code, "sendto", 3, 0x1000, 1, 0, 0, 0) == RET_ALLOW
    assert verdict(code, "sendto", 3, 0x1000, 1, 0, 0, 16) == RET_ALLOW
    for address in (1, 0x2000, 1 << 32, 1 << 63):
        assert verdict(code, "sendto", 3, 0x1000, 1, 0, address, 0) == RET_USER_NOTIF
    assert verdict(code, "sendmsg", 3, 0x1000, 0) == RET_USER_NOTIF
    for call in ("write", "writev", "read", "recvfrom", "recvmsg", "sendfile", "splice"):
        assert verdict(code, call, 3, 0x1000, 1, 0, 0, 0) == RET_ALLOW
