"""What a verdict on one address costs with 10, 1,000 and 10,000 networks, against the plain scan of 10."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

from measure import compare, report

from sandlock_policy import Policy
from sandlock_policy.matching import NetworkRules

CHANCE = random.Random(7)  # noqa: S311 - the same networks in every run
ADDRESSES = [CHANCE.getrandbits(32).to_bytes(4, "big") for _ in range(2000)]


def main() -> None:
    """Measure 2,000 verdicts a round."""
    few = networks(10)
    scanned = [ipaddress.ip_network(net) for net in few]

    def scan() -> None:
        for packed in ADDRESSES:
            address = ipaddress.ip_address(packed)
            any(address in network for network in scanned)

    cases = {f"{count:,} networks": (verdicts(networks(count)), None) for count in (10, 1000, 10_000)}
    report("2,000 verdicts on random IPv4 addresses", compare(("scan of 10 networks", scan), cases, rounds=40))


def networks(count: int) -> list[str]:
    """Random networks of 12 to 32 bits, each once."""
    found: set[str] = set()
    while len(found) < count:
        bits = CHANCE.randint(12, 32)
        found.add(f"{ipaddress.ip_address(CHANCE.getrandbits(32) >> (32 - bits) << (32 - bits))}/{bits}")
    return sorted(found)


def verdicts(nets: list[str]) -> Callable[[], object]:
    """Return what asks about every address."""
    rules = NetworkRules.from_policy(Policy(net_allow=[f"tcp://{net}:443" for net in nets]))

    def ask() -> None:
        for packed in ADDRESSES:
            rules.verdict("tcp", packed, 443)

    return ask


if __name__ == "__main__":
    main()
