"""What tells a program of its network where there are no namespaces to show it: names, resolver, bundles."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_policy.data.landlock import READ
from sandlock_policy.paths import is_below
from sandlock_policy.view import HOSTS, RESOLVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_policy import Plan, Policy
    from sandlock_runtime.web import Web

__all__ = ["network_files"]


def network_files(
    policy: Policy, plan: Plan, names: Mapping[str, Sequence[str]], web: Web | None, root: str | None
) -> dict[str, bytes]:
    """Return the files to be served, path inside -> content; none where namespaces show them.

    Raises:
        PolicyError: a bundle cannot have the CA's certificate.

    """
    if plan.view is not None or not plan.filter.served_network:
        return {}
    found: dict[str, bytes] = {}
    if policy.net_allow or policy.http_allow:
        from sandlock_notif.content.hosts import hosts_file, resolver_file  # lazy: only network rules have names
        from sandlock_policy.matching import has_names

        if has_names(policy):
            found = {HOSTS: hosts_file(policy, names), RESOLVER: resolver_file(policy)}
    for path in policy.http_inject_ca if web is not None else ():
        plain = path.removeprefix("-")
        if plain == path or os.path.exists((root or "") + plain):
            assert web is not None  # noqa: S101  # as the condition says
            found[plain] = web.bundle(plain, root)
    readable = [path for path, access, _ in _rules(plan) if access & READ]
    return {path: text for path, text in found.items() if any(is_below(path, folder) for folder in readable)}


def _rules(plan: Plan) -> list[tuple[str, int, bool]]:
    return [*plan.fs_rules, *(plan.served_view.rules if plan.served_view is not None else ())]
