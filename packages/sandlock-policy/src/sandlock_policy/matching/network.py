"""The verdict of a policy's network rules on one address and port."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_policy.matching.addresses import embedded_ipv4, is_private, parse_value
from sandlock_policy.matching.intervals import Intervals
from sandlock_policy.matching.learned import LearnedNames
from sandlock_policy.matching.resolved import Resolved, resolve_rules
from sandlock_policy.matching.tables import Table
from sandlock_policy.rules.endpoints import Endpoint, Protocol
from sandlock_policy.rules.ports import ALL_PORTS, parse_bind

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["NetworkRules", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it is allowed, and the rule that says so: its field and text, empty where no rule speaks of it."""

    allowed: bool
    rule: str = ""


_NOTHING = Verdict(allowed=False)
_ANYTHING = Verdict(allowed=True)


class NetworkRules:
    """Decides about destinations; made by `from_policy`.

    A denial wins over everything. With `net_deny` alone, all other TCP and UDP is allowed; ICMP needs a rule that names
    it (NET-11). A denial that names neither a scheme nor ports covers ICMP as well.

    `dropped` has each (name, address) that was answered at launch and does not count, see `from_policy`.
    """

    def __init__(
        self, policy: Policy, resolved: Resolved, clock: Callable[[], float], names_last_s: float | None
    ) -> None:
        """Build the tables; `from_policy` is how to get there."""
        deny = [(label, _with_icmp(endpoint)) for label, endpoint in resolved.deny]
        self.dropped = resolved.dropped
        self._may_be_private = resolved.may_be_private
        self._deny = Table(deny)
        self._deny_learned = LearnedNames(deny, clock)
        self._allow = Table(resolved.allow if names_last_s is None else resolved.lasting)
        self._allow_learned = LearnedNames(resolved.allow, clock)
        if names_last_s is not None:
            for name, answers in resolved.usable.items():
                self._allow_learned.learn(name, [parse_value(one) for one in answers], names_last_s)
        # Made ahead: a verdict takes longer to make than to find.
        self._denied = {label: Verdict(allowed=False, rule=label) for label, _ in deny}
        self._allowed = {label: Verdict(allowed=True, rule=label) for label, _ in resolved.allow}
        self._else_allowed = bool(policy.net_deny) and not policy.net_allow
        self._bind_allow = _bind_table("network.allow_bind", policy.net_allow_bind)
        self._bind_deny = _bind_table("network.deny_bind", policy.net_deny_bind)
        self._bind_else_allowed = bool(policy.net_deny_bind) and not policy.net_allow_bind

    @classmethod
    def from_policy(
        cls,
        policy: Policy,
        resolved_names: Mapping[str, Iterable[str]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        names_last_s: float | None = None,
    ) -> NetworkRules:
        """Return the rules of `policy`, with each name replaced by its addresses.

        `resolved_names` has every name of `names_to_resolve(policy)`. An answer that is loopback, link-local, multicast
        or a metadata server counts only if a rule allows that address itself or the name is `localhost` (NET-03); the
        others are in `dropped`. Raises PolicyError naming each allowed name that has no answer left.

        With `names_last_s` the answers count as an allowance for so many seconds, and after that what is learned; those
        of `localhost`, and denials, count for good.
        """
        names = {name: tuple(addresses) for name, addresses in (resolved_names or {}).items()}
        return cls(policy, resolve_rules(policy, names), clock, names_last_s)

    def verdict(self, protocol: Protocol, address: str | bytes, port: int = 0) -> Verdict:
        """Decide about sending to `address` (text, or the 4 or 16 bytes of a socket address) and `port`.

        `protocol` is that of the socket; ICMP has no ports. Raises ValueError for what is no address. The address is
        judged in its canonical form; connect to `canonical_address(address)`, so that the two are the same.
        """
        version, value = parse_value(address)
        rule = self._deny.find(protocol, version, value, port)
        if rule is None:
            rule = self._deny_learned.find(protocol, (version, value), port)
        if rule is None and version == 6:
            inside = (self._deny.find(protocol, 4, one, port) for one in embedded_ipv4(value))
            rule = next((one for one in inside if one is not None), None)
        if rule is not None:
            return self._denied[rule]
        rule = self._allow.find(protocol, version, value, port)
        if rule is None:
            rule = self._allow_learned.find(protocol, (version, value), port)
        if rule is not None:
            return self._allowed[rule]
        return _ANYTHING if self._else_allowed and protocol != "icmp" else _NOTHING

    def verdict_on_bind(self, port: int) -> Verdict:
        """Decide about binding `port`, TCP or UDP; 0 lets the kernel pick, and is covered by 0 and by `*`."""
        rule = self._bind_deny.find(port)
        if rule is not None:
            return Verdict(allowed=False, rule=rule)
        rule = self._bind_allow.find(port)
        if rule is not None:
            return Verdict(allowed=True, rule=rule)
        return _ANYTHING if self._bind_else_allowed else _NOTHING

    def knows_name(self, name: str) -> bool:
        """Tell whether a resolver may ask for `name` (lower case, no final dot): a rule that allows speaks of it."""
        return self._else_allowed or self._allow_learned.knows(name)

    def learn(self, name: str, addresses: Iterable[str], ttl_s: float) -> tuple[str, ...]:
        """Take the answers that a resolver of ours got for `name`, for `ttl_s` seconds; return those it may pass on.

        Private addresses are dropped unless a rule allows them by address, or the name had them at launch (NET-03): a
        name that was harmless yesterday and leads to the inside today is how DNS rebinding works.
        """
        answers = tuple(addresses)
        self._deny_learned.learn(name, [parse_value(one) for one in answers], ttl_s)
        kept = tuple(one for one in answers if not is_private(one) or self._may_be_private(name, one))
        self._allow_learned.learn(name, [parse_value(one) for one in kept], ttl_s)
        return kept


def _with_icmp(endpoint: Endpoint) -> Endpoint:
    if endpoint.protocols == ("tcp", "udp") and endpoint.ports == (ALL_PORTS,):
        return dataclasses.replace(endpoint, protocols=("tcp", "udp", "icmp"))
    return endpoint


def _bind_table(field: str, items: Iterable[int | str]) -> Intervals[str]:
    return Intervals(
        (0 if span == ALL_PORTS else span[0], span[1], f"{field}[{index}] {item}")
        for index, item in enumerate(items)
        for span in parse_bind(item)
    )
