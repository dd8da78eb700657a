"""Network rules that the kernel enforces alone: TCP by port."""

from __future__ import annotations

from sandlock_policy.data.landlock import NET_BIND_TCP, NET_CONNECT_TCP
from sandlock_policy.errors import Problem
from sandlock_policy.record import record
from sandlock_policy.rules.endpoints import parse_endpoint
from sandlock_policy.rules.ports import ALL_PORTS, parse_bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["KernelNetwork", "decide_network"]

_SERVED = "needs the supervisor, which the policy or this host does without: the kernel alone knows TCP ports only"


@record(frozen=True, slots=True)
class KernelNetwork:
    """TCP ports that may be reached and bound; None stands for all of them."""

    connect: tuple[int, ...] | None
    bind: tuple[int, ...] | None

    @property
    def listens(self) -> bool:
        """Tell whether any port may be bound."""
        return self.bind is None or bool(self.bind)

    @property
    def any_bind(self) -> bool:
        """Tell whether every port may be bound."""
        return self.bind is None

    def handled(self, available: int) -> int:
        """Return the rights of `available` that a ruleset has to handle: a right that is not handled is granted."""
        free = (NET_CONNECT_TCP if self.connect is None else 0) | (NET_BIND_TCP if self.bind is None else 0)
        return available & ~free

    def rules(self, available: int) -> tuple[tuple[int, int], ...]:
        """Return (port, rights) for each port that is named, with the rights of `available` only."""
        access: dict[int, int] = {}
        for ports, right in ((self.connect, NET_CONNECT_TCP), (self.bind, NET_BIND_TCP)):
            if ports is not None and available & right:
                for port in ports:
                    access[port] = access.get(port, 0) | right
        return tuple(sorted(access.items()))


def decide_network(policy: Policy, problems: list[Problem]) -> KernelNetwork:
    """Return what the kernel can enforce of `policy`; every rule that it cannot is added to `problems`."""
    connect: set[int] | None = set()
    for index, rule in enumerate(policy.net_allow):
        endpoint = parse_endpoint(rule)
        if endpoint.protocols != ("tcp",) or endpoint.kind != "any":
            remedy = f"write tcp://:{_ports_of(rule)} to allow these ports of every host"
            problems.append(Problem(f"network.allow[{index}]", rule, f"{rule} {_SERVED}", remedy))
        elif endpoint.ports == (ALL_PORTS,):
            connect = None
        elif connect is not None:
            connect.update(_expand(endpoint.ports))
    allowed = {port for item in policy.net_allow_bind for port in _expand(parse_bind(item))}
    denied = {port for item in policy.net_deny_bind for port in _expand(parse_bind(item))}
    if denied and not allowed:
        reason = f"net_deny_bind alone allows every other port, UDP too, which {_SERVED}"
        problems.append(Problem("network.deny_bind", repr(policy.net_deny_bind), reason, "name the ports to allow"))
    bind = allowed - denied
    everything = bind >= set(range(ALL_PORTS[0], ALL_PORTS[1] + 1))
    return KernelNetwork(
        connect=None if connect is None else tuple(sorted(connect)), bind=None if everything else tuple(sorted(bind))
    )


def _ports_of(rule: str) -> str:
    endpoint = parse_endpoint(rule)
    return str(type(endpoint)(("tcp",), "any", "", endpoint.ports)).rpartition(":")[2].replace("//*", "*")


def _expand(ranges: tuple[tuple[int, int], ...]) -> set[int]:
    return {port for start, end in ranges for port in range(start, end + 1)}
