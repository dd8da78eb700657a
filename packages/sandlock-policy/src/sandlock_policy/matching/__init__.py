"""Which rule of a policy an address and a port fall under; loaded by the supervisor, never by the launch."""

from __future__ import annotations

from sandlock_policy.matching.addresses import canonical_address, is_private
from sandlock_policy.matching.network import NetworkRules, Verdict
from sandlock_policy.matching.wanted import has_names, intercepted_ports, names_to_resolve

__all__ = [
    "NetworkRules",
    "Verdict",
    "canonical_address",
    "has_names",
    "intercepted_ports",
    "is_private",
    "names_to_resolve",
]
