"""Addresses that a name led to for a while: what the program was told is what it may connect to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sandlock_policy.rules.endpoints import Endpoint

__all__ = ["LearnedNames"]

# Whoever controls an allowed domain controls how many addresses it has; beyond this the oldest are forgotten.
_MOST_ADDRESSES: Final = 4096

Rules = tuple[tuple[str, Endpoint], ...]


class LearnedNames:
    """Rules about names, and the addresses that answers gave them until their time is over."""

    def __init__(self, rules: Iterable[tuple[str, Endpoint]], clock: Callable[[], float]) -> None:
        """Take (label, endpoint), of which those with a name or a wildcard count; `clock` tells seconds."""
        self._clock = clock
        self._exact: dict[str, list[tuple[str, Endpoint]]] = {}
        self._below: dict[str, list[tuple[str, Endpoint]]] = {}
        for label, endpoint in rules:
            if endpoint.kind == "host":
                self._exact.setdefault(endpoint.target, []).append((label, endpoint))
            elif endpoint.kind == "wildcard":
                self._below.setdefault(endpoint.target, []).append((label, endpoint))
        # address -> rules -> until when. Not by name: below a wildcard the program may ask for any number of them.
        self._known: dict[tuple[int, int], dict[Rules, float]] = {}

    def knows(self, name: str) -> bool:
        """Tell whether a rule speaks of `name`."""
        return next(self._rules_for(name), None) is not None

    def learn(self, name: str, addresses: Iterable[tuple[int, int]], ttl_s: float) -> None:
        """Remember for `ttl_s` seconds that `name` has these canonical addresses, if a rule speaks of it."""
        rules = tuple(self._rules_for(name))
        if not rules:
            return
        until = self._clock() + ttl_s
        for address in addresses:
            # Taken out and put back, so that the order of the dictionary is that of the last answers.
            ends = self._known.pop(address, {})
            ends[rules] = max(until, ends.get(rules, 0.0))
            self._known[address] = ends
            while len(self._known) > _MOST_ADDRESSES:
                del self._known[next(iter(self._known))]

    def find(self, protocol: str, address: tuple[int, int], port: int) -> str | None:
        """Return the label of a rule whose name has led to `address` and that covers `port`, or None."""
        ends = self._known.get(address)
        if ends is None:
            return None
        now = self._clock()
        for rules, until in list(ends.items()):
            if until < now:
                del ends[rules]
                continue
            for label, endpoint in rules:
                covered = any(first <= port <= last for first, last in endpoint.ports)
                if protocol in endpoint.protocols and (covered or protocol == "icmp"):
                    return label
        if not ends:
            del self._known[address]
        return None

    def _rules_for(self, name: str) -> Iterator[tuple[str, Endpoint]]:
        yield from self._exact.get(name, ())
        rest = name.partition(".")[2]
        while rest:
            yield from self._below.get(rest, ())
            rest = rest.partition(".")[2]
