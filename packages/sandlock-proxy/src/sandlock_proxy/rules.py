"""Which rule a request falls under."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_policy.rules.http import HttpRule, parse_rule
from sandlock_proxy.authority import Authority
from sandlock_proxy.target import Target

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["HttpRules", "HttpVerdict", "matches"]


@dataclass(frozen=True, slots=True)
class HttpVerdict:
    """Whether a request is allowed, and the rule that says so: its field and text, empty where none speaks of it."""

    allowed: bool
    rule: str = ""


class HttpRules:
    """Decides about requests: denials first; where there are rules that allow, everything else is refused."""

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Parse rules as `METHOD HOST[:PORT]/PATH`; raises RuleError for what is none."""
        self._allow = [(f"http.allow[{index}] {text}", parse_rule(text)) for index, text in enumerate(allow)]
        self._deny = [(f"http.deny[{index}] {text}", parse_rule(text)) for index, text in enumerate(deny)]

    @classmethod
    def from_policy(cls, policy: Policy) -> HttpRules:
        """Return the rules of `policy`."""
        return cls(policy.http_allow, policy.http_deny)

    def verdict(self, method: str, authority: Authority, target: Target) -> HttpVerdict:
        """Decide about a request in its normal form."""
        for label, rule in self._deny:
            if matches(rule, method, authority, target.components, fold=True) or matches(
                rule, method, authority, target.plain, fold=True
            ):
                return HttpVerdict(allowed=False, rule=label)
        for label, rule in self._allow:
            if matches(rule, method, authority, target.components) and (
                target.plain == target.components or matches(rule, method, authority, target.plain)
            ):
                return HttpVerdict(allowed=True, rule=label)
        return HttpVerdict(allowed=not self._allow)


def matches(
    rule: HttpRule, method: str, authority: Authority, components: tuple[str, ...], *, fold: bool = False
) -> bool:
    """Tell whether `rule` covers a request.

    A rule without a port covers every port that is intercepted. `fold` ignores the case of the path, for denials: some
    servers do, and a denial that can be spelt around is none.
    """
    if rule.method not in ("*", method) or rule.port not in (None, authority.port):
        return False
    if not _covers_host(rule.host, authority):
        return False
    path = rule.path
    if fold:
        path = tuple(one.casefold() for one in path)
        components = tuple(one.casefold() for one in components)
    return _covers_path(path, components, open_end=rule.open_end)


def _covers_host(pattern: str, authority: Authority) -> bool:
    if pattern.startswith("*."):
        return not authority.is_address and authority.host.endswith(pattern[1:])
    return pattern in ("*", authority.host)


def _covers_path(pattern: tuple[str, ...], components: tuple[str, ...], *, open_end: bool) -> bool:
    if len(components) < len(pattern) or (len(components) > len(pattern) and not open_end):
        return False
    last = len(pattern) - 1
    for index, wanted in enumerate(pattern):
        one = components[index]
        if index == last and open_end:
            return one.startswith(wanted)
        if wanted not in ("*", one):
            return False
    return True
