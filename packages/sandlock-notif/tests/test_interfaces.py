"""Route netlink answers, without a socket: what is listed, what is refused, and nothing for nonsense."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from sandlock_notif.content.interfaces import LOOPBACK, answer, way_out

OUT = way_out(ipv4=True, ipv6=True)
assert OUT is not None
BOTH = (LOOPBACK, OUT)
DUMP, ACK = 0x301, 5


def ask(kind: int, flags: int = DUMP, body: bytes = bytes(16), sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def messages(replies: list[bytes]) -> list[tuple[int, int, bytes]]:
    found = []
    for reply in replies:
        at = 0
        while at < len(reply):
            length, kind, flags, sequence, port = struct.unpack_from("=IHHII", reply, at)
            assert (sequence, port) == (7, 99)
            found.append((kind, flags, reply[at + 16 : at + length]))
            at += (length + 3) & ~3
    return found


def test_links_and_addresses_are_listed_and_ended() -> None:
    links = messages(answer(ask(18), BOTH, 99))
    assert [kind for kind, _, _ in links] == [16, 16, 3]
    assert all(flags & 2 for _, flags, _ in links)
    assert b"lo\0" in links[0][2]
    addresses = messages(answer(ask(22), BOTH, 99))
    assert [kind for kind, _, _ in addresses] == [20, 20, 20, 20, 3]
    assert bytes((127, 0, 0, 1)) in addresses[0][2]
    only_six = messages(answer(ask(22, body=b"\x0a" + bytes(15)), BOTH, 99))
    assert [body[0] for kind, _, body in only_six if kind == 20] == [10, 10]


def test_one_link_is_found_by_number_or_name_and_acknowledged() -> None:
    by_index = ask(18, ACK, struct.pack("=BxHiII", 0, 0, 1, 0, 0))
    assert [kind for kind, _, _ in messages(answer(by_index, BOTH, 99))] == [16, 2]
    by_name = ask(18, 1, bytes(16) + struct.pack("=HH", 9, 3) + b"eth0\0" + bytes(3))
    [(kind, _, body)] = messages(answer(by_name, BOTH, 99))
    assert (kind, struct.unpack_from("=i", body, 4)) == (16, (2,))
    [(kind, _, body)] = messages(answer(ask(18, 1, struct.pack("=BxHiII", 0, 0, 9, 0, 0)), BOTH, 99))
    assert (kind, struct.unpack_from("=i", body)) == (2, (-19,))


def test_net_12_routes_and_neighbours_are_empty_and_changes_are_refused() -> None:
    for kind in (26, 30, 34):  # routes, neighbours, rules
        assert [found for found, _, _ in messages(answer(ask(kind), BOTH, 99))] == [3]
    for kind in (16, 17, 20, 21, 24, 25, 28, 19):  # new, delete, set
        [(found, _, body)] = messages(answer(ask(kind, ACK), BOTH, 99))
        assert (found, struct.unpack_from("=i", body)) == (2, (-1,))


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_passed_over(data: bytes) -> None:
    for reply in answer(data, BOTH, 99):
        assert len(reply) >= 16


def test_without_a_way_out_there_is_only_loopback() -> None:
    assert way_out(ipv4=False, ipv6=False) is None
