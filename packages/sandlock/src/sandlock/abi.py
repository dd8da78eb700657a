"""Which Landlock the kernel has, and which one a sandbox wants."""

from __future__ import annotations

from sandlock_policy.errors import LayerMissingError
from sandlock_policy.features import features_of_abi
from sandlock_policy.plan import Context
from sandlock_policy.presets import preset
from sandlock_policy.resolve import resolve
from sandlock_sys.landlock import abi_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["landlock_abi_version", "min_landlock_abi"]

_NEWEST = 64  # far beyond what there is: a policy that this ABI cannot satisfy, none can


def landlock_abi_version() -> int:
    """Return the version of Landlock's interface in this kernel; 0 where there is none (landlock(7))."""
    return abi_version()


def min_landlock_abi(policy: Policy | None = None) -> int:
    """Return the lowest Landlock ABI on which `policy`, or else the preset `default`, is enforced in full everywhere.

    On an older kernel a run needs a host that lets it make namespaces, which hold signals and devices too. Where there
    are none it is refused, unless the policy names what may be missing in `allow_degraded`.

    Raises:
        PolicyError: the policy holds fields that nothing enforces yet, or that contradict each other.
        LayerMissingError: it needs a layer that no Landlock gives.

    """
    policy = preset("default") if policy is None else policy
    context = Context(cwd="/", home="/nonexistent", env={}, uid=65534, gid=65534)
    for abi in range(_NEWEST):
        try:
            plan = resolve(policy, features_of_abi(abi), context)
        except LayerMissingError:
            if abi == _NEWEST - 1:
                raise
        else:
            # `tree_kill` follows from the signals, and for `fs_metadata` there is no Landlock.
            instead = {row.name for row in plan.protections if row.layer == "namespace"} - {"tree_kill", "fs_metadata"}
            if not instead - {*policy.allow_degraded}:
                return abi
    raise AssertionError("unreachable: the last round returned or raised")
