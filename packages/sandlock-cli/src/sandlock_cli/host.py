"""The findings of sandlock-sys's probe in words: what works, what stands in for what does not, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from sandlock_sys.probe import Feature, Probe, State

__all__ = ["Finding", "findings"]

_CONTAINER = "a container's seccomp profile may refuse it: allow the call there"
_LANDLOCK = (
    "build the kernel with CONFIG_SECURITY_LANDLOCK and start it with `landlock` in `lsm=` (see "
    "/sys/kernel/security/lsm); in a container, allow the landlock_* calls"
)
_USERNS = (
    "allow them: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone (Debian), "
    "kernel.apparmor_restrict_unprivileged_userns (Ubuntu); in a container, allow unshare"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature of the host.

    `state` is `pass`, `degraded` (something else does the work) or `missing`; `why` says what the kernel answered, or
    what stands in; `remedy` what would help, or "".
    """

    name: str
    state: str
    why: str
    remedy: str = ""


# name, bits of `Probe.landlock_bits`, ABI and kernel that brought them, what stands in ("" for nothing)
_RIGHTS = (
    ("Landlock: links and renames", ("AccessFs.REFER",), "ABI 2, Linux 5.19", "every rename across folders is refused"),
    ("Landlock: truncation", ("AccessFs.TRUNCATE",), "ABI 3, Linux 6.2", ""),
    ("Landlock: TCP ports", ("AccessNet.BIND_TCP", "AccessNet.CONNECT_TCP"), "ABI 4, Linux 6.7",
     "without --net-allow no socket can be made anyway"),
    ("Landlock: device ioctls", ("AccessFs.IOCTL_DEV",), "ABI 5, Linux 6.10", ""),
    ("Landlock: abstract Unix sockets", ("Scope.ABSTRACT_UNIX_SOCKET",), "ABI 6, Linux 6.12",
     "no Unix socket can be made"),
    ("Landlock: signals", ("Scope.SIGNAL",), "ABI 6, Linux 6.12", ""),
)  # fmt: skip

# name, attribute of Probe, kernel, what stands in, remedy where it is there and refused
_CALLS = (
    ("seccomp filters", "seccomp_filter", "Linux 3.5 with CONFIG_SECCOMP_FILTER", "", _CONTAINER),
    ("no_new_privs", "no_new_privs", "Linux 3.5", "", _CONTAINER),
    ("user namespaces", "user_namespace", "Linux 3.8 with CONFIG_USER_NS",
     "below write grants chmod and its kin are refused as well", _USERNS),
    ("read-only mounts", "mount_setattr", "Linux 5.12",
     "below write grants chmod and its kin are refused as well", _USERNS),
    ("pidfds", "pidfd_open", "Linux 5.3", "", _CONTAINER),
    ("close_range", "close_range", "Linux 5.9", "", _CONTAINER),
)  # fmt: skip

# What the supervisor, copy-on-write and checkpoints need; a run that the kernel alone confines does without.
_SERVED = (
    ("seccomp listeners", "seccomp_new_listener", "Linux 5.0"),
    ("killable waits of listeners", "seccomp_wait_killable_recv", "Linux 5.19"),
    ("synchronous wake-ups", "seccomp_sync_wake_up", "Linux 6.6"),
    ("fds through listeners", "seccomp_addfd_send", "Linux 5.14"),
    ("pidfd_getfd", "pidfd_getfd", "Linux 5.6"),
    ("process_vm_readv", "process_vm_readv", "Linux 3.2"),
    ("ptrace", "ptrace_seize", "Linux 3.4"),
    ("openat2", "openat2", "Linux 5.6"),
    ("overlay mounts", "overlay", "Linux 5.11"),
    ("PAGEMAP_SCAN", "pagemap_scan", "Linux 6.7"),
)


def findings(probe: Probe) -> list[Finding]:
    """Return a finding for each feature that a run uses, then for those that only some do."""
    rows = [_landlock(probe)]
    for name, bits, since, instead in _RIGHTS:
        features = [probe.landlock_bits[bit] for bit in bits if bit in probe.landlock_bits]
        worst = min(features, key=bool, default=Feature(State.ABSENT))
        rows.append(_finding(name, worst, since, instead, _CONTAINER))
    for name, attribute, since, instead, remedy in _CALLS:
        rows.append(_finding(name, getattr(probe, attribute), since, instead, remedy))
    for name, attribute, since in _SERVED:
        rows.append(
            _finding(name, getattr(probe, attribute), since, "what is served with it is refused by name", _CONTAINER)
        )
    return rows


def _landlock(probe: Probe) -> Finding:
    if probe.landlock_abi == 0:
        return Finding("Landlock", "missing", "the kernel does not offer it, so no file can be protected", _LANDLOCK)
    if not probe.landlock_restrict_self:
        why = f"ABI {probe.landlock_abi}, but restricting oneself is refused: {probe.landlock_restrict_self.why}"
        return Finding("Landlock", "missing", why, _CONTAINER)
    return Finding("Landlock", "pass", f"ABI {probe.landlock_abi}, Linux {probe.kernel}")


def _finding(name: str, feature: Feature, since: str, instead: str, refused: str) -> Finding:
    if feature:
        return Finding(name, "pass", "")
    absent = feature.state is State.ABSENT
    why = f"this kernel does not have it ({since})" if absent else f"{feature.state.value}: {feature.why}"
    if instead:
        why += f"; {instead}"
    remedy = f"a kernel from {since} on" if absent else refused
    return Finding(name, "degraded" if instead else "missing", why, "" if feature.state is State.UNTRIED else remedy)
