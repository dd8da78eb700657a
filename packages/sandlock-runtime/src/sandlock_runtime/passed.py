"""What a run's streams and passed fds, or a root without /proc, take away from a plan."""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISSOCK

from sandlock_policy.plan import Protection
from sandlock_runtime.streams import exposes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_policy import Plan, Policy

__all__ = ["as_passed", "unheld"]

_METADATA = (
    "a stream or passed fd is a file of yours, open for reading: chmod, chown, utime and xattr calls are refused"
)
_TRUNCATE = "a stream or passed fd is a file of yours: truncate(2) by path, and O_TRUNC without writing, are refused"
_DEVICES = "a passed fd is a folder, and leads past the mounts that keep the program from devices"
_CONNECTS = "a stream or passed fd is a socket that may be connected anew, and this Landlock does not know TCP ports"
_LISTENING = "no IP socket can be made; one that was passed in does not listen, and so no other does either"
_SOCKET_DOMAIN, _SOCKET_TYPE = (1, 39), (1, 3)  # SOL_SOCKET; SO_DOMAIN, SO_TYPE
_INET = (2, 10)  # AF_INET, AF_INET6
_TALKS_ALONE = (2, 3)  # SOCK_DGRAM, SOCK_RAW: those cannot listen
_NO_PROC = "the root has no folder /proc, which the pid namespace that stands for Landlock's signal scope needs"


def as_passed(plan: Plan, policy: Policy, fds: Sequence[int]) -> Plan:
    """Return the plan that holds although the program gets `fds`: an fd keeps the mount that it was opened on.

    Raises LayerMissingError for what then nothing holds, and the policy does not do without.
    """
    held = {row.name for row in plan.protections if row.layer == "namespace" and row.state == "active"}
    rows: dict[str, Protection] = {}
    options: dict[str, object] = {}
    if plan.writable_mounts is not None and exposes(fds):
        rows["fs_metadata"] = Protection("fs_metadata", "active", "seccomp", _METADATA)
        options["deny_metadata"] = True
        if "fs_truncate" in held:
            rows["fs_truncate"] = Protection("fs_truncate", "active", "seccomp", _TRUNCATE)
            options["deny_truncate"] = True
        if "fs_ioctl_dev" in held and any(fd >= 0 and S_ISDIR(os.fstat(fd).st_mode) for fd in fds):
            rows["fs_ioctl_dev"] = _lost(policy, "fs_ioctl_dev", _DEVICES, "pass no folder")
    lost = unheld(plan)
    sockets = [fd for fd in fds if fd >= 0 and _is_inet(fd)] if lost else []
    if "listen" in lost and any(_option(fd, _SOCKET_TYPE) not in _TALKS_ALONE for fd in sockets):
        # AF_UNSPEC dissolves a connection, and listen(2) then takes a port that Landlock is not asked about.
        rows["net_tcp"] = Protection("net_tcp", "active", "landlock", _LISTENING)
        options["extra_deny"] = (*plan.filter.extra_deny, "listen")
    if "net_tcp" in lost and sockets:
        rows["net_tcp"] = _lost(policy, "net_tcp", _CONNECTS, "pass none, or grant no Unix sockets", "landlock")
    root = plan.view.root if plan.view is not None else None
    # A root that is not there at all is told by who shows it (view.py).
    if root is not None and "scope_signal" in held and os.path.isdir(root) and not os.path.isdir(f"{root}/proc"):
        for name in held & {"scope_signal", "scope_abstract", "tree_kill"}:
            rows[name] = _lost(policy, name, _NO_PROC, f"make an empty folder {root}/proc")
    if not rows:
        return plan
    changed: Plan = plan.__replace__(  # type: ignore[attr-defined]  # dataclasses have it from 3.13
        filter=plan.filter.__replace__(**options),  # type: ignore[attr-defined]  # as above
        protections=tuple([rows.get(row.name, row) for row in plan.protections]),
    )
    return changed


def unheld(plan: Plan) -> tuple[str, ...]:
    """Return what no layer would hold if the program got an fd that takes it away; see `as_passed`."""
    own = plan.filter.unix_sockets and not plan.filter.tcp and not plan.filter.served_network
    if not own or not any(row.name == "net_tcp" and row.state == "active" for row in plan.protections):
        return ()
    return ("listen",) if plan.handled_net else ("listen", "net_tcp")


def _is_inet(fd: int) -> bool:
    return S_ISSOCK(os.fstat(fd).st_mode) and _option(fd, _SOCKET_DOMAIN) in _INET


def _option(fd: int, option: tuple[int, int]) -> int:
    from sandlock_sys.sockets import get_option  # lazy: sockets are seldom passed

    return int.from_bytes(get_option(fd, *option), "little")


def _lost(policy: Policy, name: str, reason: str, remedy: str, layer: str = "namespace") -> Protection:
    agreed = "scope_signal" if name == "tree_kill" else name  # which nobody has to agree to by itself
    if agreed not in policy.allow_degraded:
        from sandlock_policy.errors import LayerMissingError  # lazy: most runs lose nothing

        flag = f"name {agreed} in allow_degraded (--allow-degraded {agreed})"
        raise LayerMissingError(layer, [agreed], reason, f"{remedy}; to run without, {flag}")
    return Protection(name, "degraded", layer, reason)
