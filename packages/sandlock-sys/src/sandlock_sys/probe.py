"""What this kernel really offers, and what surrounds this process allows: one value, found by calling.

The calls are made by a short-lived child, a clone that runs C only, so nothing of the caller changes: no fd, no child,
no signal, no credential. It works in any thread and below an outer seccomp filter, also one that kills.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from errno import E2BIG, EINVAL, ENODEV, ENOPROTOOPT, ENOSYS, ENOTTY, EOPNOTSUPP
from types import MappingProxyType

from sandlock_sys import vdso
from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib
from sandlock_sys.constants.landlock import AccessFs, AccessNet, RestrictSelf, Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_sys._ffi import CData

__all__ = ["Feature", "Probe", "State", "probe"]

# What a kernel answers for a call, flag or bit that it does not know. Anything else is somebody's refusal.
_ABSENT = frozenset({ENOSYS, EINVAL, EOPNOTSUPP, ENOTTY, ENODEV, E2BIG, ENOPROTOOPT})


class State(enum.Enum):
    """What became of a call."""

    AVAILABLE = "available"
    ABSENT = "absent"  # this kernel does not have it, or was built without
    REFUSED = "refused"  # it has it, and says no: privileges, limits, an outer filter
    KILLED = "killed"  # an outer seccomp filter kills for it
    UNTRIED = "untried"  # what it needs is not there


@dataclass(frozen=True, slots=True)
class Feature:
    """One finding; true when available.

    Attributes:
        state: what became of the call.
        errno: the kernel's answer, 0 if there was none.
        why: that answer in words, or "".

    """

    state: State
    errno: int = 0
    why: str = ""

    def __bool__(self) -> bool:
        return self.state is State.AVAILABLE


@dataclass(frozen=True, slots=True)
class Probe:
    """All findings.

    Attributes:
        kernel: release, as uname(2) tells it.
        machine: as uname(2) tells it.
        landlock_abi: version that the kernel reports, 0 without Landlock.
        landlock_errata: mask of the fixed bugs that it reports.
        landlock_fs: the file rights with which a rule could be added.
        landlock_net: the network rights with which a rule could be added.
        landlock_scopes: the scopes with which a ruleset could be made.
        landlock_restrict_flags: the flags that landlock_restrict_self(2) takes.
        landlock_bits: the finding for each of these bits, by names such as "AccessFs.REFER".
        landlock_restrict_self: a thread could restrict itself.
        no_new_privs: prctl(PR_SET_NO_NEW_PRIVS).
        seccomp_filter: a filter could be installed.
        seccomp_new_listener: one with a listener; EBUSY below a supervisor that has one.
        seccomp_wait_killable_recv: one with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
        seccomp_sync_wake_up: SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP could be set.
        seccomp_addfd_send: SECCOMP_ADDFD_FLAG_SEND is known.
        pidfd_open: of a child.
        pidfd_thread: PIDFD_THREAD is known.
        pidfd_getfd: from a child.
        process_vm_readv: of a child, with the right contents.
        ptrace_seize: of a child.
        user_namespace: made, and ids mapped in it.
        mount_namespace: made (in a user namespace; failing that, with the caller's own capability), and its root made
            read-only.
        mount_setattr: with effect, in that namespace.
        pid_namespace: made in the user namespace.
        proc_mount: a /proc of that pid namespace could be mounted.
        overlay: an overlay with an upper layer could be mounted.
        pagemap_scan: the PAGEMAP_SCAN ioctl.
        userfaultfd: for faults of user mode.
        clone3: the call exists and is not filtered.
        close_range: likewise.
        close_range_cloexec: CLOSE_RANGE_CLOEXEC is known.
        openat2: the call, with RESOLVE_IN_ROOT.
        memfd_seals: a seal could be set, and held.
        memfd_noexec_seal: MFD_NOEXEC_SEAL is known.
        vdso_address: of the caller's vDSO, 0 without one.
        vdso_symbols: its functions, by offset.

    """

    kernel: str
    machine: str
    landlock_abi: int
    landlock_errata: int
    landlock_fs: AccessFs
    landlock_net: AccessNet
    landlock_scopes: Scope
    landlock_restrict_flags: RestrictSelf
    landlock_bits: Mapping[str, Feature]
    landlock_restrict_self: Feature
    no_new_privs: Feature
    seccomp_filter: Feature
    seccomp_new_listener: Feature
    seccomp_wait_killable_recv: Feature
    seccomp_sync_wake_up: Feature
    seccomp_addfd_send: Feature
    pidfd_open: Feature
    pidfd_thread: Feature
    pidfd_getfd: Feature
    process_vm_readv: Feature
    ptrace_seize: Feature
    user_namespace: Feature
    mount_namespace: Feature
    mount_setattr: Feature
    pid_namespace: Feature
    proc_mount: Feature
    overlay: Feature
    pagemap_scan: Feature
    userfaultfd: Feature
    clone3: Feature
    close_range: Feature
    close_range_cloexec: Feature
    openat2: Feature
    memfd_seals: Feature
    memfd_noexec_seal: Feature
    vdso_address: int
    vdso_symbols: tuple[vdso.Symbol, ...]


def probe() -> Probe:
    """Try everything and return the findings; takes a few milliseconds, and is not cached.

    Raises:
        SyscallError: not even the child could be made (EAGAIN at the process limit).

    """
    results = ffi.new("struct sl_probe_results *")
    check("clone", lib.sl_probe(results), "the probing child")
    bits: dict[str, Feature] = {}
    fs = _bits(bits, AccessFs, results.landlock_fs)
    net = _bits(bits, AccessNet, results.landlock_net)
    scopes = _bits(bits, Scope, results.landlock_scope)
    flags = _bits(bits, RestrictSelf, results.landlock_restrict)
    features = {
        name.removeprefix("SL_PROBE_").lower(): _feature(results.feature[index])
        for index, name in ffi.typeof("enum sl_probe_feature").elements.items()
        if index < len(results.feature)
    }
    system = os.uname()
    return Probe(
        kernel=system.release,
        machine=system.machine,
        landlock_abi=max(results.landlock_abi, 0),
        landlock_errata=max(results.landlock_errata, 0),
        landlock_fs=AccessFs(fs),
        landlock_net=AccessNet(net),
        landlock_scopes=Scope(scopes),
        landlock_restrict_flags=RestrictSelf(flags),
        landlock_bits=MappingProxyType(bits),
        vdso_address=vdso.address(),
        vdso_symbols=vdso.symbols(),
        **features,
    )


def _bits(into: dict[str, Feature], names: type[enum.IntFlag], slots: CData) -> int:
    """Note the finding for each bit of a mask and return the mask of those that are available."""
    mask = 0
    for bit in range(len(slots)):
        feature = into[f"{names.__name__}.{names(1 << bit).name}"] = _feature(slots[bit])
        mask |= bool(feature) << bit
    return mask


def _feature(result: int) -> Feature:
    if result == lib.SL_PROBE_UNTRIED:
        return Feature(State.UNTRIED, why="something it needs is missing")
    if result == lib.SL_PROBE_KILLED:
        return Feature(State.KILLED, why="the process was killed for calling it")
    if result >= 0:
        return Feature(State.AVAILABLE)
    return Feature(State.ABSENT if -result in _ABSENT else State.REFUSED, -result, os.strerror(-result))
