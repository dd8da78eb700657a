"""The network: nothing granted, nothing reached, by any family, protocol, call or flag (security.md, 3 and 6)."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack_lab import Box, World, reason_of

from sandlock import LayerMissingError
from sandlock_testkit.features import level

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

ipv4 = pytest.mark.needs("ipv4")
ipv6 = pytest.mark.needs("ipv6")
NO_FAMILY = {errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EINVAL, errno.ESOCKTNOSUPPORT}


class Listener:
    """A server that counts: connections accepted, bytes and datagrams received."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, address: str = "127.0.0.1") -> None:
        self._stack = ExitStack()
        self.stream = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            self.stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.stream.bind((address, 0))
        self.port: int = self.stream.getsockname()[1]
        self.stream.listen(64)
        self.datagram = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        self.datagram.bind((address, self.port))
        self.lite = None
        try:
            self.lite = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, 136))
            self.lite.bind((address, self.port))
        except OSError:  # a kernel without UDP-Lite has one attack less
            self.lite = None

    def received(self) -> int:
        """Connections and datagrams that arrived until now."""
        count = 0
        while select.select([self.stream], [], [], 0.1)[0]:
            self.stream.accept()[0].close()
            count += 1
        for end in filter(None, (self.datagram, self.lite)):
            while select.select([end], [], [], 0.02)[0]:
                end.recv(4096)
                count += 1
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@ipv4
@pytest.mark.every_abi
def test_net_01_ll_09_ll_10_nothing_granted_nothing_reached_over_tcp(box: Box) -> None:
    with Listener() as server:
        bare = box.bare_lines("sockets", "tcp", "127.0.0.1", str(server.port))
        for way in ("tcp", "tcp_named", "after_unspec", "fastopen_sendto", "fastopen_sendmsg", "fastopen_sendmmsg"):
            assert bare[way].won, way
        assert server.received() >= 6
        inside = box.lines("sockets", "tcp", "127.0.0.1", str(server.port))
        assert server.received() == 0
    assert not any(line.won for line in inside.values()), inside
    assert inside["tcp"].errno == inside["mptcp"].errno == errno.EACCES


@ipv6
@pytest.mark.parametrize("spelling", ["::1", "::ffff:127.0.0.1", "::", "::ffff:0.0.0.0", "0::0:1"])
def test_net_04_no_spelling_of_an_ipv6_address_is_reached(box: Box, spelling: str) -> None:
    with Listener(socket.AF_INET6, "::") as server:
        bare = box.bare_lines("sockets", "tcp6", spelling, str(server.port))
        assert bare["tcp"].won
        assert server.received()
        inside = box.lines("sockets", "tcp6", spelling, str(server.port))
        assert server.received() == 0
    assert not any(line.won for line in inside.values()), inside


@ipv4
@pytest.mark.every_abi
def test_ll_12_net_11_no_udp_no_udplite_no_ping_no_raw(box: Box) -> None:
    with Listener() as server:
        bare = box.bare_lines("sockets", "udp", "127.0.0.1", str(server.port))
        assert bare["udp_send"].won
        assert server.received() >= 3
        inside = box.lines("sockets", "udp", "127.0.0.1", str(server.port))
        assert server.received() == 0
    assert not any(line.won for line in inside.values()), inside
    assert inside["udp"].errno == errno.EACCES


@ipv4
@pytest.mark.every_abi
def test_net_08_no_port_is_opened_not_even_by_listening_unbound(box: Box) -> None:
    assert box.bare_lines("sockets", "listen")["listen_unbound"].won
    assert not any(line.won for line in box.lines("sockets", "listen").values())


def test_ll_20_no_family_but_connected_unix_pairs(box: Box) -> None:
    bare = box.bare_lines("sockets", "families")
    assert any(name.startswith("family_16_") for name in bare), "bare, netlink opens"
    inside = box.lines("sockets", "families")
    assert {name for name, line in inside.items() if line.won} == set(), inside


def test_net_12_netlink_tells_nothing(box: Box) -> None:
    assert box.bare_lines("sockets", "netlink")["netlink_addresses"].result > 0
    assert not box.lines("sockets", "netlink")["netlink_addresses"].won


@contextmanager
def unix_servers(folder: str, *, abstract: bool = False) -> Iterator[list[tuple[str, socket.socket]]]:
    with ExitStack() as stack:
        made = []
        for name, kind in (
            ("stream", socket.SOCK_STREAM),
            ("dgram", socket.SOCK_DGRAM),
            ("seqpacket", socket.SOCK_SEQPACKET),
        ):
            server = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            path = f"sandlock-{os.urandom(6).hex()}" if abstract else f"{folder}/{name}"
            server.bind("\0" + path if abstract else path)
            if kind != socket.SOCK_DGRAM:
                server.listen(16)
            made.append((path, server))
        yield made


@pytest.mark.every_abi
@pytest.mark.parametrize("where", ["outside", "below a read grant", "below a write grant", "abstract"])
def test_ll_13_ll_14_no_unix_socket_of_another_process_is_reached(box: Box, tmp_path: object, where: str) -> None:
    folders = {"outside": f"{tmp_path}", "below a read grant": box.readable[0], "below a write grant": str(box.work)}
    verb = "abstract" if where == "abstract" else "unix"
    with unix_servers(folders.get(where, ""), abstract=where == "abstract") as servers:
        for path, server in servers:
            bare = box.bare_lines("sockets", verb, path)
            assert any(line.won for line in bare.values())
            _drain(server)
            inside = box.lines("sockets", verb, path)
            assert not any(line.won for line in inside.values()), inside
            assert not select.select([server], [], [], 0.05)[0], "nothing arrived"


def _drain(server: socket.socket) -> None:
    while select.select([server], [], [], 0.02)[0]:
        if server.type == socket.SOCK_DGRAM:
            server.recv(4096)
        else:
            server.accept()[0].close()


def test_ll_14_only_pairs_that_stay_connected(box: Box) -> None:
    bare = box.bare_lines("sockets", "pairs")
    assert bare["pair_1_2"].won
    inside = box.lines("sockets", "pairs")
    won = {name for name, line in inside.items() if line.won}
    assert won == {"pair_1_1", "pair_1_5"}, inside


@ipv4
@pytest.mark.every_abi
@pytest.mark.parametrize("kind", ["udp", "tcp", "unix"])
def test_net_06_a_socket_given_as_stdin_reaches_nobody_new(box: Box, kind: str) -> None:
    """A socket that the caller leaves on stdin was given; a peer that it was not connected to was not.

    Of the kernel's layers none looks at the address of a datagram: that one is closed, or said to be open.
    """
    family, type_ = {"udp": (2, 2), "tcp": (2, 1), "unix": (1, 2)}[kind]
    with Listener() as server, socket.socket(family, type_) as given:
        bare = subprocess.run(
            [box.program("sockets"), "fd", "0", "127.0.0.1", str(server.port)],
            stdin=given.fileno(),
            capture_output=True,
            check=True,
        )
        if kind != "unix":
            assert server.received() >= 1, bare.stdout
    with Listener() as server, socket.socket(family, type_) as given, box.sandbox() as sandbox:
        with sandbox.popen(
            [box.program("sockets"), "fd", "0", "127.0.0.1", str(server.port)], stdin=given, stdout=subprocess.PIPE
        ) as process:
            output, _ = process.communicate(timeout=20)
        if server.received():
            assert kind == "udp", output
            model = Path(__file__).parent.parent / "docs" / "threat-model.md"
            assert "inherited datagram socket" in model.read_text()


@ipv4
@pytest.mark.every_abi
def test_net_06_where_nothing_would_hold_a_given_tcp_socket_it_is_refused_by_name(box: Box) -> None:
    """Before Landlock knew ports connect(2) is refused to programs without sockets of their own; these have some."""
    old = (box.world.landlock_abi or level("landlock")) < 4
    command = [box.program("sockets"), "fd", "0", "127.0.0.1"]
    others = [name for name in box.world.missing() if name != "net_tcp"]
    fields: dict[str, Any] = {"disable": ["unix_sockets"], "allow_degraded": others}
    with Listener() as server, socket.socket() as given, box.sandbox(**fields) as sandbox:
        if old:
            with pytest.raises(LayerMissingError, match="allow_degraded") as caught:
                sandbox.popen([*command, str(server.port)], stdin=given)
            assert caught.value.protections == ("net_tcp",)
        else:
            sandbox.popen([*command, str(server.port)], stdin=given, stdout=subprocess.DEVNULL).wait(20)
        assert not server.received()
    fields["allow_degraded"] = [*others, "net_tcp"]
    with Listener() as server, socket.socket() as given, box.sandbox(**fields) as sandbox:
        result = sandbox.popen([*command, str(server.port)], stdin=given, stdout=subprocess.DEVNULL).wait(20)
        state = next(row.state for row in result.protections if row.name == "net_tcp")
        assert (state, bool(server.received())) == (("degraded", True) if old else ("active", False))


@ipv4
@pytest.mark.needs("landlock", level=4)
def test_ll_ports_a_granted_port_is_reached_and_no_other(box: Box) -> None:
    with Listener() as granted, Listener() as other:
        fields = {"net_allow": [f"tcp://*:{granted.port}"]}
        inside = box.lines("sockets", "tcp", "127.0.0.1", str(granted.port), **fields)
        assert inside["tcp"].won
        assert inside["tcp_named"].won
        assert granted.received() >= 2
        for way in ("mptcp", "sctp", "smc", "fastopen_sendto", "fastopen_sendmsg", "fastopen_high", "fastopen_option"):
            assert not inside[way].won, way
        assert not inside["tcp_repair"].won
        assert inside["tcp_ulp"].errno in {errno.EPERM, errno.EACCES}
        inside = box.lines("sockets", "tcp", "127.0.0.1", str(other.port), **fields)
        assert other.received() == 0, inside
        assert not any(line.won for name, line in inside.items() if name != "fastopen_option"), inside
        inside = box.lines("sockets", "udp", "127.0.0.1", str(granted.port), **fields)
        assert granted.received() == 0, inside


@ipv4
@pytest.mark.needs("landlock", level=4)
def test_ll_09_sendmmsg_fast_open_is_refused_beside_a_granted_port(box: Box) -> None:
    with Listener() as granted, Listener() as other:
        inside = box.lines("sockets", "tcp", "127.0.0.1", str(other.port), net_allow=[f"tcp://*:{granted.port}"])
        for way in ("fastopen_sendto", "fastopen_sendmsg", "fastopen_sendmmsg", "fastopen_connect", "fastopen_high"):
            assert not inside[way].won, (way, inside[way])
        assert other.received() == 0


@ipv4
@pytest.mark.needs("landlock", level=4)
def test_net_08_with_a_connect_grant_nothing_listens(box: Box) -> None:
    with Listener() as granted:
        inside = box.lines("sockets", "listen", net_allow=[f"tcp://*:{granted.port}"])
    assert not any(inside[name].won for name in ("listen_unbound", "listen_bound", "mptcp_listen", "udp_bind")), inside


@ipv4
@pytest.mark.needs("landlock", level=4)
def test_ll_ports_a_bind_grant_is_for_its_port(box: Box, world: World) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = (
        "import socket, sys\n"
        "for port in map(int, sys.argv[1:]):\n"
        "    s = socket.socket()\n"
        "    try:\n"
        "        s.bind(('127.0.0.1', port)); s.listen(1); print(port, 0, 0)\n"
        "    except OSError as e: print(port, -1, e.errno)\n"
    )
    system = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"]
    result = box.inside(
        "/usr/bin/python3",
        "-c",
        script,
        str(port),
        str(port + 1),
        "0",
        fs_readable=system,
        net_allow_bind=[port],
        allow_degraded=["net_listen", *world.missing()],
    )
    assert result.stdout.split(b"\n")[:3] == [b"%d 0 0" % port, b"%d -1 13" % (port + 1), b"0 -1 13"], (
        result.stdout,
        result.stderr,
        reason_of(result),
    )
