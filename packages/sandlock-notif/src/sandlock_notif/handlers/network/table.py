"""The network of one sandbox: which calls are served, by whom, and what they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from errno import EACCES, EAFNOSUPPORT, ECONNREFUSED, EINVAL, ENOTCONN
from functools import partial
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.action import CONTINUE, Errno, Value
from sandlock_notif.content.hosts import RESOLVER_ADDRESS
from sandlock_notif.deputies import Deputies
from sandlock_notif.dispatch import HandlerTable, Trap
from sandlock_notif.errors import Refusal
from sandlock_notif.events import Event
from sandlock_notif.handlers.network.addresses import AF_INET, AF_INET6, AF_UNIX
from sandlock_notif.handlers.network.binding import Binder
from sandlock_notif.handlers.network.connecting import Connector
from sandlock_notif.handlers.network.gate import Gate
from sandlock_notif.handlers.network.inside import Inside
from sandlock_notif.handlers.network.lingering import LINGER, set_linger
from sandlock_notif.handlers.network.netlink import Netlink
from sandlock_notif.handlers.network.pinning import Pending, Source, holding, take, take_named
from sandlock_notif.handlers.network.ports import PortMap
from sandlock_notif.handlers.network.sending import Sender
from sandlock_notif.handlers.network.unix import UnixPeers
from sandlock_notif.handlers.network.unix_binding import UnixBinder
from sandlock_notif.handlers.own_domains import own_domain_traps
from sandlock_notif.resolver import Resolver
from sandlock_policy.data.supervised_network import NETLINK_ROUTE
from sandlock_policy.seccomp.rules import not_one_of, one_of
from sandlock_sys.shortcut import Kind, Row

if TYPE_CHECKING:
    from sandlock_notif.action import Action
    from sandlock_notif.content.interfaces import Interface
    from sandlock_notif.dispatch import BoundPort, Handle, Services
    from sandlock_notif.handlers.network.addresses import Inet
    from sandlock_notif.handlers.network.connecting import Intercept
    from sandlock_notif.handlers.network.posture import Posture
    from sandlock_notif.request import Request
    from sandlock_notif.resolver import Lookup
    from sandlock_policy.matching import NetworkRules
    from sandlock_sys.shortcut import Shortcut
    from sandlock_sys.sockets import Socket

__all__ = ["NetworkTable"]

_RESOLVER = (RESOLVER_ADDRESS, 53)  # RFC 1035, 4.2
_SUBREAPER = (one_of(0, 36),)  # PR_SET_CHILD_SUBREAPER, linux/prctl.h, 3.4


class NetworkTable(HandlerTable):
    """Serves the network calls of one sandbox.

    Arguments:
        posture: which calls are served.
        rules: who may be reached, which ports may be bound.
        unix_allow: paths of Unix sockets outside that may be reached.
        interfaces: what is known of the machine's.
        intercept: gets the other end of each connection to a port of `posture.intercepts`, and where it was to go.
        lookup: how names are resolved while the program runs; None: as the host does it.
        socket_files: a path means to the kernel what it means to the program.

    """

    name = "network"

    def __init__(
        self,
        posture: Posture,
        rules: NetworkRules,
        unix_allow: Sequence[str] = (),
        interfaces: tuple[Interface, ...] = (),
        intercept: Intercept | None = None,
        lookup: Lookup | None = None,
        *,
        socket_files: bool = True,
    ) -> None:
        self._posture = posture
        self._inside = Inside()
        self._lasting = posture.fixed and not posture.remaps
        self.gate = Gate(rules, self._inside, fixed=self._lasting)
        self._ports = PortMap(self._inside, enabled=posture.remaps)
        self._intercept = intercept
        self._resolver = Resolver(rules, lookup) if posture.resolves else None
        self._connector = Connector(self.gate, self._ports, self._diverted)
        self._binder = Binder(self.gate, self._ports)
        self._binder.on_bound = self._tell_bound
        self._binder.probes = self._connector.probes = posture.probes
        self._unix = UnixPeers(unix_allow, self._inside)
        self._unix.by_path = socket_files
        self._unix_binder = UnixBinder(self._unix, self._inside)
        self._sender = Sender(self.gate, self._ports, self._unix)
        self._netlink = Netlink(interfaces)
        self._services: Services | None = None
        self._source: Source | None = None
        self._workers: Deputies | None = None

    def traps(self) -> Sequence[Trap]:
        """Return the calls that need a verdict here; plain data on connected sockets is not among them."""
        posture = self._posture
        reason = "decided on a copy, done on behalf"
        rows = [
            Trap("connect", self._told(self._connect, "connect"), reason, cost="memory", row=self._row(Kind.CONNECT)),
            Trap("bind", self._told(self._bind, "bind"), reason, cost="memory"),
            Trap("prctl", self._adopts, "a process that gets orphans hides what they descend from", _SUBREAPER),
            *own_domain_traps(),
        ]
        if posture.tcp:
            rows.append(Trap("listen", self._told(self._listen, "listen"), "it may bind a port of its own"))
            rows.append(Trap("setsockopt", self._linger, "a close never waits, here or there", LINGER, cost="memory"))
        if posture.inet:
            reason = "a stand-in for route netlink, a remapped port and an intercepted peer are named as asked for"
            rows.append(Trap("socket", self._netlink.open, "a stand-in that knows two interfaces", NETLINK_ROUTE))
            rows.append(Trap("getsockname", partial(self._name, peer=False), reason, cost="memory"))
            rows.append(Trap("getpeername", partial(self._name, peer=True), reason, cost="memory"))
        if posture.sends:
            named = (not_one_of(4, 0, wide=True),)
            sender = self._sender
            reason = "datagrams name their destination"
            rows += [
                Trap("sendto", self._told(sender.sendto, "sendto"), reason, named, "memory", self._row(Kind.SENDTO)),
                Trap("sendmsg", self._told(sender.sendmsg, "sendmsg"), f"{reason} behind a pointer", cost="memory"),
                Trap("sendmmsg", self._told(sender.sendmmsg, "sendmmsg"), f"{reason} behind a pointer", cost="memory"),
            ]
        return rows

    def _row(self, kind: Kind) -> Row | None:
        return Row(kind) if self._lasting else None

    def shorten(self, shortcut: Shortcut) -> None:
        """Have known destinations reached without us."""
        self.gate.shorten(shortcut)

    def attach(self, services: Services) -> None:
        """Take what the work needs."""
        self._services = services
        # Workers are not in the sandbox's domain: what they do was decided on an address or an inode, and connects
        # that the child itself may not make are theirs to make.
        self._workers = Deputies(services.loop, -1, lambda _: None)
        self._connector.workers = self._unix.workers = self._workers
        self._connector.arch = self._unix.arch = self._unix_binder.arch = services.arch
        self._unix_binder.deputies = services.deputies
        self._source = self._sender.source = Source(services.processes)
        self.gate.live.processes = services.processes
        self.gate.live.first = services.pid
        self._netlink.attach(services.loop)
        if self._resolver is not None:
            self._resolver.sink = services.report

    async def close(self) -> None:
        """Free what is held."""
        self._netlink.close()
        self.gate.close()
        if self._source is not None:
            self._source.close()
        self._unix.close()
        self._inside.close()
        if self._resolver is not None:
            await self._resolver.close()
        if self._workers is not None:
            await self._workers.close()

    def controls(self) -> Mapping[str, Callable[..., None]]:
        """Return what a policy callback may change."""
        return {
            "restrict_network": self.gate.restrict,
            "grant_network": self.gate.live.grant,
            "restrict_pid_network": self.gate.restrict_process,
        }

    def ports(self) -> tuple[BoundPort, ...]:
        """Return the ports that are bound now."""
        return self._ports.bound()

    def _tell_bound(self, protocol: str, inside: int, outside: int, fd: int) -> None:
        """Report a port that was bound; the inode says later whether somebody else has it by then."""
        detail = {"protocol": protocol, "port": inside, "real": outside, "inode": os.fstat(fd).st_ino}
        if self._services is not None:
            self._services.report(Event("bound", "bind", 0, 0, f"{protocol} port {inside}", detail))

    def _diverted(self, target: Inet) -> Intercept | None:
        """Return who gets a TCP connection to `target` instead of it: the resolver, the HTTP proxy, or nobody."""
        if self._resolver is not None and (target.host, target.port) == _RESOLVER:
            return self._resolver.adopt
        return self._intercept if target.port in self._posture.intercepts else None

    def _connect(self, request: Request) -> Action | Pending:
        pinned, raw, _ = self._take_named(request)
        return holding(pinned, partial(self._connect_to, request, raw))

    def _connect_to(self, request: Request, raw: bytes, pinned: Socket) -> Action | Pending:
        if pinned.domain in (AF_INET, AF_INET6):
            return self._connector.connect(request, pinned, raw)
        if pinned.cookie in self._netlink:
            return Value(0)
        if pinned.domain == AF_UNIX:
            return self._unix.connect(request, pinned, raw)
        raise Refusal(ECONNREFUSED, f"sockets of family {pinned.domain} reach nobody")

    def _bind(self, request: Request) -> Action | Pending:
        pinned, raw, _ = self._take_named(request)
        return holding(pinned, partial(self._bind_to, request, raw))

    def _bind_to(self, request: Request, raw: bytes, pinned: Socket) -> Action | Pending:
        if pinned.domain in (AF_INET, AF_INET6):
            return self._binder.bind(pinned, raw)
        if pinned.cookie in self._netlink:
            return Value(0)
        if pinned.domain == AF_UNIX:
            return self._unix_binder.bind(request, pinned, raw)
        raise Refusal(EAFNOSUPPORT, f"sockets of family {pinned.domain} have no verdict")

    def _listen(self, request: Request) -> Action | Pending:
        return holding(self._take(request), partial(self._listen_on, request.int_arg(1)))

    def _listen_on(self, backlog: int, pinned: Socket) -> Action:
        if pinned.domain in (AF_INET, AF_INET6):
            return self._binder.listen(pinned, backlog)
        if pinned.domain == AF_UNIX:
            return self._binder.listen_unix(pinned, backlog)
        raise Refusal(EACCES, f"sockets of family {pinned.domain} have no verdict")

    def _adopts(self, _: Request) -> None:
        self.gate.live.adopting = True

    def _linger(self, request: Request) -> Action | Pending:
        return holding(self._take(request), partial(set_linger, request))

    def _name(self, request: Request, *, peer: bool) -> Action | Pending:
        """Tell a name that is not the kernel's; everything else is the kernel's to tell, and protects nothing."""

        def work(pinned: Socket) -> Action:
            if pinned.cookie in self._netlink:
                name: bytes | None = self._netlink.peer_name() if peer else self._netlink.own_name(pinned.cookie)
                if peer:
                    return Errno(ENOTCONN)
            elif pinned.domain not in (AF_INET, AF_INET6):
                return CONTINUE
            elif peer:
                intercepted = self._connector.peers.get(pinned.cookie)
                name = intercepted.pack() if intercepted is not None else self._binder.peer_name(pinned)
            else:
                name = self._binder.own_name(pinned)
            return CONTINUE if name is None else _tell_name(request, name)

        return holding(self._take(request), work)

    def _take(self, request: Request) -> Socket:
        assert self._source is not None  # noqa: S101  # attached before the first request
        return take(request, self._source)

    def _take_named(self, request: Request) -> tuple[Socket, bytes, bytes]:
        assert self._source is not None  # noqa: S101  # likewise
        return take_named(request, self._source, (request.args[1], request.int_arg(2)))

    def _told(self, handle: Callable[[Request], Action | Pending], syscall: str) -> Handle:
        """Wrap a handler so that what it refuses is told with the endpoint and the flag that allows it."""

        def told(request: Request) -> Action | Pending:
            try:
                answer = handle(request)
            except Refusal as refusal:
                return self._refused(request, syscall, refusal)
            if isinstance(answer, Pending):
                answer.on_refusal = partial(self._refused, request, syscall)
            return answer

        return told

    def _refused(self, request: Request, syscall: str, refusal: Refusal) -> Action:
        if refusal.reason and self._services is not None:
            detail: dict[str, object] = {}
            target, found, flag = refusal.reason.partition(" is not allowed: ")
            if found:
                detail = {"endpoint": target, "flag": flag}
            event = Event("denied", syscall, request.tid, refusal.errno, refusal.reason, detail)
            self._services.report(event)
        return Errno(refusal.errno)


def _tell_name(request: Request, name: bytes) -> Action:
    """Write a socket address as move_addr_to_user does: as much as there is room for, and its whole length."""
    room = int.from_bytes(memory.read(request, request.args[2], 4), "little", signed=True)
    if room < 0:
        raise Refusal(EINVAL)
    memory.write(request, request.args[1], name[:room])
    memory.write(request, request.args[2], len(name).to_bytes(4, "little"))
    return Value(0)
