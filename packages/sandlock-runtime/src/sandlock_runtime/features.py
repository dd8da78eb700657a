"""What this host can enforce, found by calling, and remembered for the process."""

from __future__ import annotations

import os
from errno import E2BIG, EINVAL, ENOMSG

from sandlock_policy.data.landlock import FS_RIGHTS, NET_RIGHTS, SCOPES
from sandlock_policy.features import HostFeatures
from sandlock_runtime.handover import takes_fds
from sandlock_sys import landlock
from sandlock_sys.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["host_features", "namespace_refused", "override", "without_namespaces"]

_ABI_VARIABLE = "SANDLOCK_LANDLOCK_ABI"  # a lower ABI than the kernel's, to see what an old one would do
_UNKNOWN_RIGHT = (
    EINVAL,
    E2BIG,
    ENOMSG,
)  # landlock_create_ruleset(2): an unknown bit, a longer structure, no bit at all
_SERVED = (
    "chroot",
    "credentials",
    "deterministic_dirs",
    "fs_denied",
    "fs_mount",
    "fs_mount_ro",
    "fs_storage",
    "http_allow",
    "http_auth",
    "http_ca",
    "http_ca_out",
    "http_deny",
    "http_inject_ca",
    "http_key",
    "http_ports",
    "max_disk",
    "max_memory",
    "max_processes",
    "net_allow",
    "net_allow_bind",
    "net_deny",
    "net_deny_bind",
    "net_refresh",
    "name",
    "num_cpus",
    "on_error",
    "on_exit",
    "port_remap",
    "random_seed",
    "time_start",
    "unix_allow",
    "workdir",
)  # policy fields that `tables` has a domain for
# Of these, what goes without copies of a program's own fds, where pidfd_getfd(2) is refused (handover.py): its sockets
# decide about the network, its directories about what a listing shows.
_SERVED_WITHOUT_FDS = ("max_memory", "max_processes", "name", "num_cpus", "random_seed", "time_start")
_known: HostFeatures | None = None
_override: HostFeatures | None = None


def host_features() -> HostFeatures:
    """Return what the kernel offers this process; asked once, at the first launch."""
    global _known  # noqa: PLW0603  # one fact about the host, the same for every sandbox
    if _override is not None:
        return _override
    if _known is None:
        _known = _ask()
    return _known


def namespace_refused() -> HostFeatures:
    """Remember that the kernel refused the namespaces when a launch tried them; return the facts without them."""
    global _known, _override  # noqa: PLW0603
    without = without_namespaces()
    if _override is not None:
        _override = without
    else:
        _known = without
    return without


def without_namespaces() -> HostFeatures:
    """Return the facts as if there were no namespaces, for one launch."""
    known = host_features()
    return HostFeatures(
        landlock_abi=known.landlock_abi,
        landlock_fs=known.landlock_fs,
        landlock_net=known.landlock_net,
        landlock_scopes=known.landlock_scopes,
        user_namespace=False,
        mount_namespace=False,
        privileged=known.privileged,
        served=known.served,
    )


class override:  # noqa: N801  # used as a function: `with override(features): ...`
    """Pretend, for a `with` block, that the host offers `features`. They can only be fewer than the real ones."""

    def __init__(self, features: HostFeatures) -> None:
        real = host_features()
        self._features = HostFeatures(
            landlock_abi=min(features.landlock_abi, real.landlock_abi),
            landlock_fs=features.landlock_fs & real.landlock_fs,
            landlock_net=features.landlock_net & real.landlock_net,
            landlock_scopes=features.landlock_scopes & real.landlock_scopes,
            user_namespace=features.user_namespace,
            mount_namespace=features.mount_namespace,
            privileged=features.privileged and real.privileged,
            served=tuple([name for name in features.served if name in real.served]),
        )
        self._before: HostFeatures | None = None

    def __enter__(self) -> Self:
        """Start pretending."""
        global _override
        self._before, _override = _override, self._features
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop pretending."""
        global _override  # noqa: PLW0603
        _override = self._before


def _ask() -> HostFeatures:
    abi = landlock.abi_version()
    forced = os.environ.get(_ABI_VARIABLE, "")
    if forced.isdecimal():
        abi = min(abi, int(forced))
    masks = [_mask(rights, abi) for rights in (FS_RIGHTS, NET_RIGHTS, SCOPES)]
    if abi and not _works(*masks):
        # A backport may report an ABI without all of its rights: try each.
        masks = [
            sum(1 << bit for bit in range(64) if mask & 1 << bit and _works(*[(i == n) << bit for i in range(3)]))
            for n, mask in enumerate(masks)
        ]
    return HostFeatures(
        landlock_abi=abi,
        landlock_fs=masks[0],
        landlock_net=masks[1],
        landlock_scopes=masks[2],
        privileged=os.geteuid() == 0 and _has_sys_admin(),
        served=_SERVED if takes_fds() else _SERVED_WITHOUT_FDS,
    )


def _mask(rights: dict[str, tuple[int, int, str]], abi: int) -> int:
    return sum(bit for bit, first, _ in rights.values() if first <= abi)


def _works(fs: int, net: int, scopes: int) -> bool:
    try:
        os.close(landlock.create_ruleset(fs, net, scopes))
    except SyscallError as error:
        if error.errno not in _UNKNOWN_RIGHT:  # no room for one more fd says nothing about the kernel: do not guess
            raise
        return False
    return True


def _has_sys_admin() -> bool:
    """Whether mounts can be made without a user namespace; no where /proc does not tell, as inside a sandbox."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) & 1 << 21)  # CAP_SYS_ADMIN, linux/capability.h
    except OSError:
        return False
    return False
