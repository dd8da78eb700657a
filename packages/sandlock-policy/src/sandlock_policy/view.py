"""What a run sees of the machine, where namespaces can show it: another root, mounts, a /proc and a name of its own."""

from __future__ import annotations

from sandlock_policy.data import landlock
from sandlock_policy.paths import is_below
from sandlock_policy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandlock_policy.features import HostFeatures
    from sandlock_policy.model import Policy

__all__ = [
    "HOSTNAME",
    "HOSTS",
    "LOADAVG",
    "MASKED",
    "MEMINFO",
    "NAMESPACED",
    "PROCESSOR_FILES",
    "RESOLVER",
    "STAT",
    "View",
    "decide_served_view",
    "decide_view",
    "namespaces_possible",
]

NAMESPACED = ("chroot", "fs_mount", "fs_mount_ro", "name", "workdir", "fs_storage", "on_exit", "on_error")
"""Fields that namespaces enforce alone, without a supervisor."""

LOADAVG = "/proc/loadavg"
MEMINFO = "/proc/meminfo"
STAT = "/proc/stat"

_MASKED = """
    cmdline interrupts kallsyms kcore key-users keys kmsg kpagecgroup kpagecount kpageflags timer_list vmallocinfo
"""
MASKED = tuple([f"/proc/{name}" for name in _MASKED.split()])
"""Files about the whole machine and its other users: in a granted /proc those that you may read are empty."""

PROCESSOR_FILES = (
    "/proc/cpuinfo",
    STAT,
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
)
"""Where programs read how many processors there are; sched_getaffinity(2) is the other place, and served."""

HOSTNAME = "/etc/hostname"
HOSTS = "/etc/hosts"
RESOLVER = "/etc/resolv.conf"
_PROC = "/proc"


@record(frozen=True, slots=True)
class View:
    """What the namespaces of one run show.

    Attributes:
        pid_namespace: no process but the sandbox's own is there, and /proc is its own.
        shows_proc: that /proc may be looked at, so it tells of a machine of the sandbox's own too.
        network_namespace: nobody's sockets are in that /proc.
        hostname: the name of the machine, or None for the host's.
        root: the folder on the host that is the root, or None.
        binds: (path on the host, path inside, read only).
        files: paths inside whose content is generated, where they exist.
        branch: the folder on the host that a copy-on-write branch covers, or None.
        rules: (path inside, LANDLOCK_ACCESS_FS_* bits, required): grants on what is there only once this is made.

    """

    pid_namespace: bool
    shows_proc: bool
    network_namespace: bool
    hostname: str | None
    root: str | None
    binds: tuple[tuple[str, str, bool], ...]
    files: tuple[str, ...]
    branch: str | None
    rules: tuple[tuple[str, int, bool], ...]


def namespaces_possible(policy: Policy, features: HostFeatures) -> bool:
    """Tell whether this run may try namespaces of its own: by the policy, and by what is known of the host.

    With max_disk it may not: what is written to an overlay mount nobody counts but the kernel, and that has no limit.
    """
    if policy.namespaces == "off" or policy.max_disk is not None or features.mount_namespace is False:
        return False
    return features.privileged or features.user_namespace is not False


def decide_view(
    policy: Policy,
    rules: dict[str, tuple[int, bool]],
    handled: int,
    root: str | None,
    workdir: str | None = None,
    *,
    named: bool = False,
    alone: bool = False,
    own_pids: bool = False,
    own_network: bool = False,
) -> View | None:
    """Return what the namespaces show, or None when the host as it is will do.

    Arguments:
        policy: says what is wanted.
        rules: path -> (access, required) of the file grants. Those that a rule made on the host would miss are moved
            into the view; the mounts' own grants are added there.
        handled: the file rights that Landlock decides; 0 for none.
        root: `policy.chroot` as an absolute path on the host, or None.
        named: hosts are allowed by name, so that the program is told their addresses.
        alone: nothing of the network is granted.
        own_pids: a pid namespace is wanted whatever is granted.
        own_network: so is a network namespace in it.
        workdir: `policy.workdir` likewise; it is below `root` where there is one.

    """
    binds = _binds(policy)
    shows_proc = "/" in rules or _PROC in rules
    pid_namespace = shows_proc or own_pids or own_network
    files = list(PROCESSOR_FILES) if policy.num_cpus is not None else []
    if shows_proc:  # what the kernel tells there is of the whole machine
        files += [path for path in (LOADAVG, STAT, *MASKED) if path not in files]
    if policy.max_memory is not None and _covered(MEMINFO, rules):
        files.append(MEMINFO)
    if policy.name is not None and _covered(HOSTNAME, rules):
        files.append(HOSTNAME)
    if named:
        files += [path for path in (HOSTS, RESOLVER) if _covered(path, rules)]
    files += [path.removeprefix("-") for path in policy.http_inject_ca]
    if not (root or binds or pid_namespace or files or workdir or policy.name is not None):
        return None
    inside: list[tuple[str, int, bool]] = []
    covered = binds if workdir is None else [*binds, (workdir, workdir[len(root or "") :] or "/", False)]
    for path in list(rules):
        if root or path in files or (pid_namespace and is_below(path, _PROC)) or _shadowed(path, covered):
            access, required = rules.pop(path)
            inside.append((path, access, required))
    if handled:
        inside += [
            (to, landlock.READ & handled if only else handled & ~landlock.NEVER, True) for _, to, only in covered
        ]
    else:
        inside.clear()
    alone = (alone and shows_proc) or own_network
    return View(pid_namespace, shows_proc, alone, policy.name, root, tuple(binds), tuple(files), workdir, tuple(inside))


def decide_served_view(
    policy: Policy, rules: dict[str, tuple[int, bool]], handled: int, root: str | None, workdir: str | None
) -> View | None:
    """Return what the supervisor shows where there are no namespaces, or None when the host as it is will do.

    The arguments are those of `decide_view`. Its `shows_proc` says that a /proc is granted in another root. Below
    the branch everything may be read and nothing written: what the program writes goes to the branch by an fd.
    """
    binds = _binds(policy)
    if not (root or binds or workdir):
        return None
    inside: list[tuple[str, int, bool]] = []
    below = None if workdir is None else workdir[len((root or "").rstrip("/")) :] or "/"
    shows_proc = root is not None and ("/" in rules or _PROC in rules)
    for path in list(rules):
        access, required = rules[path]
        if below is not None and is_below(path, below) and ".." not in path.split("/"):
            access &= landlock.READ
        if root or _shadowed(path, binds) or access != rules[path][0]:
            del rules[path]
            inside.append((path, access, required))
    inside += [(to, landlock.READ if only else handled & ~landlock.NEVER, True) for _, to, only in binds]
    if below is not None:
        inside.append((below, landlock.READ, True))
    allowed = tuple([(path, access & handled, required) for path, access, required in inside]) if handled else ()
    return View(False, shows_proc, False, None, root, tuple(binds), (), workdir, allowed)


def _binds(policy: Policy) -> list[tuple[str, str, bool]]:
    binds = [(host, inside, False) for inside, host in policy.fs_mount.items()]
    binds += [(host, inside, True) for inside, host in policy.fs_mount_ro.items()]
    binds.sort(key=lambda bind: bind[1])  # a mount below another one comes after it
    return binds


def _shadowed(path: str, binds: list[tuple[str, str, bool]]) -> bool:
    """Whether a mount covers what a rule made on the host would name."""
    return any(is_below(path, inside) for _, inside, _ in binds)


def _covered(path: str, rules: Mapping[str, tuple[int, bool]]) -> bool:
    """Whether the grants reach `path`; what nobody can read needs no other content."""
    return any(grant == "/" or is_below(path, grant) for grant in rules)
