"""What the host can enforce, as plain values."""

from __future__ import annotations

from sandlock_policy.data import landlock
from sandlock_policy.record import record

__all__ = ["HostFeatures", "features_of_abi"]


@record(frozen=True, slots=True)
class HostFeatures:
    """The kernel layers that a launch can use here, found by calling them.

    `landlock_abi` is 0 where Landlock is absent; the three masks hold the rights that really work, which a backport
    may have fewer of than its ABI says. `user_namespace` and `mount_namespace` are None until they were tried: the
    launch tries, and resolves again with False when the kernel refuses. `privileged` means CAP_SYS_ADMIN. `served`
    names the policy fields that a supervisor is at hand for.
    """

    landlock_abi: int = 0
    landlock_fs: int = 0
    landlock_net: int = 0
    landlock_scopes: int = 0
    user_namespace: bool | None = None
    mount_namespace: bool | None = None
    privileged: bool = False
    served: tuple[str, ...] = ()


def features_of_abi(abi: int, *, mount_namespace: bool | None = None, privileged: bool = False) -> HostFeatures:
    """Return what a kernel with Landlock `abi` offers when it has every right of that ABI."""

    def mask(rights: dict[str, tuple[int, int, str]]) -> int:
        return sum([bit for bit, first_abi, _ in rights.values() if first_abi <= abi])

    return HostFeatures(
        landlock_abi=abi,
        landlock_fs=mask(landlock.FS_RIGHTS),
        landlock_net=mask(landlock.NET_RIGHTS),
        landlock_scopes=mask(landlock.SCOPES),
        user_namespace=mount_namespace,
        mount_namespace=mount_namespace,
        privileged=privileged,
    )
