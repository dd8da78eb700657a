"""Who may be reached: the rules of the policy, and the sandbox itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from sandlock_notif.errors import Refusal
from sandlock_notif.handlers.network.live import LiveLimits
from sandlock_sys.destinations import Destinations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandlock_notif.handlers.network.addresses import Inet
    from sandlock_notif.handlers.network.inside import Inside
    from sandlock_notif.request import Request
    from sandlock_policy.matching import NetworkRules, Verdict
    from sandlock_sys.shortcut import Shortcut
    from sandlock_sys.sockets import Socket

__all__ = ["DGRAM", "STREAM", "Gate", "Protocol", "protocol_of", "refusal_text"]

Protocol = Literal["tcp", "udp", "icmp"]

STREAM: Final = 1  # SOCK_STREAM, linux/net.h
DGRAM: Final = 2  # SOCK_DGRAM, linux/net.h

_PASSED_MAX: Final = 4096

# What SO_TYPE and SO_PROTOCOL have a verdict for; linux/in.h, linux/in6.h. Raw sockets, MPTCP, SCTP, UDP-Lite: none.
_PROTOCOLS: Final[dict[tuple[int, int], Protocol]] = {
    (STREAM, 6): "tcp",
    (DGRAM, 17): "udp",
    (DGRAM, 1): "icmp",
    (DGRAM, 58): "icmp",
}


def protocol_of(pinned: Socket, errno: int) -> Protocol:
    """Return what the rules call the protocol of an IP socket; `errno` refuses those that they do not know."""
    protocol = _PROTOCOLS.get((pinned.kind, pinned.protocol))
    if protocol is None:
        raise Refusal(errno, f"a socket of type {pinned.kind} and protocol {pinned.protocol} reaches nobody")
    return protocol


def refusal_text(protocol: str, target: Inet, verdict: Verdict) -> str:
    """Say what was refused, why, and which flag allows it."""
    endpoint = target.endpoint(protocol)
    if verdict.rule:
        return f"{endpoint} is denied by {verdict.rule}"
    return f"{endpoint} is not allowed: --net-allow {endpoint}"


class Gate:
    """Decides about destinations on IP.

    Arguments:
        rules: of the policy, with its names resolved.
        inside: the sandbox's own sockets.
        fixed: no rule changes while the program runs, and no port has another number inside.

    Attributes:
        live: what a policy callback has taken away.

    """

    def __init__(self, rules: NetworkRules, inside: Inside, *, fixed: bool = False) -> None:
        self.rules = rules
        self.inside = inside
        self.live = LiveLimits()
        self._fixed = fixed
        self._passed: dict[tuple[int, int, bytes], bytes] = {}  # SO_DOMAIN, SO_PROTOCOL, name -> the name to send with
        self._destinations = Destinations()
        self._shortcut: Shortcut | None = None

    def shorten(self, shortcut: Shortcut) -> None:
        """Have sockets reach without us what they are found to reach for good from now on; `restrict` forgets it."""
        self._shortcut = shortcut
        self._destinations.clear()
        shortcut.reach(self._destinations)

    def close(self) -> None:
        """Free what is held."""
        if self._shortcut is not None:
            self._shortcut.reach(None)
        self._destinations.close()

    def known(self, pinned: Socket, name: bytes) -> bytes | None:
        """Return the name that a datagram socket may send with instead of `name`; None: that must be judged."""
        packed = self._passed.get((pinned.domain, pinned.protocol, name))
        if packed is not None and pinned.kind == DGRAM and not self.live.active:
            self.inside.add(pinned.cookie)
            self._destinations.add(name, packed, domain=pinned.domain, cookie=pinned.cookie)
            return packed
        return None

    def remember(self, pinned: Socket, name: bytes, packed: bytes) -> None:
        """Keep what `name` led to when rules alone decided about it: for one datagram socket, or all of TCP's.

        Safety: what a policy callback takes away meanwhile, in another thread, is active by then, or forgets this.
        """
        if not self._fixed or self.live.active:
            return
        if pinned.kind == STREAM:
            self._destinations.add(name, packed, domain=pinned.domain)
            return
        if len(self._passed) >= _PASSED_MAX:
            self._passed.clear()
        self._passed[pinned.domain, pinned.protocol, name] = packed
        self._destinations.add(name, packed, domain=pinned.domain, cookie=pinned.cookie)

    def restrict(self, networks: Iterable[str]) -> None:
        """Let only these addresses be reached from now on, of those that the rules allow; in any thread."""
        self.live.restrict(networks)
        self._forget()

    def restrict_process(self, pid: int, networks: Iterable[str]) -> None:
        """Likewise for one process and what descends from it."""
        self.live.restrict_process(pid, networks)
        self._forget()

    def _forget(self) -> None:
        """Serve nothing more without us; `shorten` begins anew, and nothing is remembered where limits are active."""
        if self._shortcut is not None:
            self._shortcut.forget()

    def is_pinged(self, target: Inet) -> bool:
        """Tell whether a rule allows ICMP to where `target` is."""
        return self.rules.verdict("icmp", target.address, 0).allowed

    def check_live(self, request: Request, protocol: Protocol, target: Inet, errno: int) -> None:
        """Raise `Refusal` with `errno` where the policy callback has taken `target` away from the caller."""
        if self.live.active and not self.live.allows(request, target.address):
            raise Refusal(errno, f"{target.endpoint(protocol)} was taken away by the policy callback")

    def check(self, protocol: Protocol, target: Inet, own: Callable[[], Inet] | None, errno: int) -> bool:
        """Let `target`, in canonical form, be reached, or raise `Refusal` with `errno`.

        What the sandbox itself listens on behind loopback is no part of the outside: no rule is needed, and none
        denies it. Whoever else listens there needs a rule. `own` finds the sender's own address. Returns whether a
        rule allows it, and not only who listens there now.
        """
        port = 0 if protocol == "icmp" else target.port
        verdict = self.rules.verdict(protocol, target.address, port)
        if verdict.allowed:
            return True
        if protocol != "icmp" and target.is_loopback():
            try:
                owner = self.inside.owner(protocol, target, own() if own is not None else None)
            except OSError as error:
                reason = f"{refusal_text(protocol, target, verdict)} (whose port it is cannot be told: {error})"
                raise Refusal(errno, reason) from error
            if owner is None and protocol == "tcp" and not verdict.rule:
                raise Refusal(errno)  # nobody listens: what the kernel would answer, and nothing is denied
            if owner is not None and owner in self.inside:
                return False
        raise Refusal(errno, refusal_text(protocol, target, verdict))
