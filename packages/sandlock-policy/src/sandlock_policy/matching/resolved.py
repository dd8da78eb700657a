"""Rules of a policy with each name replaced by the addresses that it had at launch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.matching.addresses import is_local, parse_value
from sandlock_policy.matching.tables import Table
from sandlock_policy.matching.wanted import implied_endpoints
from sandlock_policy.rules.endpoints import Endpoint, Kind, parse_endpoint

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["Resolved", "resolve_rules"]

Rule = tuple[str, Endpoint]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Rules as (label, endpoint), those with names and, beside them, those with their addresses.

    `lasting` are those of `allow` whose addresses do not change: the other names are learned anew while a program runs.
    `dropped` has each (name, address) that was answered and does not count. `listed` covers the addresses that rules
    allow as addresses; `usable` has the answers that each name had.
    """

    allow: tuple[Rule, ...]
    lasting: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    dropped: tuple[tuple[str, str], ...]
    listed: Table
    usable: Mapping[str, tuple[str, ...]]

    def may_be_private(self, name: str, address: str) -> bool:
        """Tell whether `name` may lead to a private `address`: a rule lists it, or it was the name's at launch.

        That another name leads there, or that `*:443` covers it, says nothing about what this name's rule allows.
        """
        value = parse_value(address)
        return self.listed.covers(*value) or value in map(parse_value, self.usable.get(name, ()))


def resolve_rules(policy: Policy, names: Mapping[str, tuple[str, ...]]) -> Resolved:
    """Put `names` into the rules of `policy`; raises PolicyError naming each allowed name without a usable answer."""
    allow = [(f"network.allow[{index}] {text}", parse_endpoint(text)) for index, text in enumerate(policy.net_allow)]
    allow += implied_endpoints(policy)
    deny = [(f"network.deny[{index}] {text}", parse_endpoint(text)) for index, text in enumerate(policy.net_deny)]
    listed = Table(rule for rule in allow if rule[1].kind in ("address", "network", "private"))
    usable: dict[str, tuple[str, ...]] = {}
    dropped: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for label, endpoint in allow:
        name = endpoint.target
        if endpoint.kind == "host" and name not in usable:
            answers = names.get(name, ())
            usable[name] = tuple(one for one in answers if _may_answer(name, one, listed))
            dropped += [(name, one) for one in answers if one not in usable[name]]
            if not usable[name]:
                problems.append(_describe(label, name, answers))
    if problems:
        raise PolicyError(problems)
    local = {name: answers for name, answers in usable.items() if _is_localhost(name)}
    return Resolved(
        _put_in(allow, usable), _put_in(allow, local), _put_in(deny, names), tuple(dropped), listed, usable
    )  # fmt: skip


def _put_in(rules: list[Rule], names: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    found = list(rules)
    for label, endpoint in rules:
        if endpoint.kind == "host":
            kind: Kind = "address"
            found += [
                (label, dataclasses.replace(endpoint, kind=kind, target=address.partition("%")[0]))
                for address in names.get(endpoint.target, ())
            ]
    return tuple(found)


def _may_answer(name: str, address: str, listed: Table) -> bool:
    return _is_localhost(name) or not is_local(address) or listed.covers(*parse_value(address))


def _is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")  # RFC 6761, 6.3


def _describe(label: str, name: str, answers: tuple[str, ...]) -> Problem:
    field, _, text = label.partition(" ")
    if not answers:
        return Problem(field, text, f"the host {name} did not resolve", "correct the name, or allow its address")
    reason = f"{name} resolves to {', '.join(answers)}: this machine, its link or a metadata server"
    return Problem(field, text, reason, f"if that is meant, allow the address as well: {answers[0]}")
