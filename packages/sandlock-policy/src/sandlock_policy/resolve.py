"""Policy, host features and one run, resolved into a plan: which layer does what."""

from __future__ import annotations

from sandlock_policy.claims import find_claims
from sandlock_policy.data import landlock
from sandlock_policy.errors import LayerMissingError, PolicyError, Problem, RuleError
from sandlock_policy.fields import FIELD_BY_NAME, FIELDS, SERVED
from sandlock_policy.grants import (
    CWD,
    cwd_is_work,
    decide_grants,
    openable_devices,
    shows_processes,
    writable_places,
)
from sandlock_policy.paths import expand_path
from sandlock_policy.plan import Context, Plan
from sandlock_policy.protect import Protections
from sandlock_policy.seccomp.options import FilterOptions
from sandlock_policy.view import NAMESPACED, decide_served_view, decide_view, namespaces_possible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy.features import HostFeatures
    from sandlock_policy.model import Policy
    from sandlock_policy.network import KernelNetwork

__all__ = ["DEFAULT_PATH", "resolve"]

_RLIMIT_CORE = 4  # asm-generic/resource.h
_RLIMIT_NOFILE = 7  # asm-generic/resource.h

# What execvp of glibc would search when the caller has no PATH (confstr _CS_PATH), with the local directories.
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_CLEAN = ("PATH", "HOME", "USER", "TERM", "LANG")


def resolve(policy: Policy, features: HostFeatures, context: Context) -> Plan:
    """Return the plan that enforces `policy` on a host with `features`, for one run; pure.

    Raises PolicyError, naming each, for fields that nothing here can enforce, and LayerMissingError where the kernel
    lacks a layer that the policy did not agree to go without.
    """
    problems: list[Problem] = []
    served = _served_fields(policy, features, problems)
    network, network_served = _decide_network(policy, features, context, problems)
    inner_ids = _decide_ids(policy, features, context, problems)
    root, workdir = _decide_folders(policy, context, problems)
    if root is not None:
        context = Context("/", "/", context.env, context.uid, context.gid, hooked=context.hooked)  # paths inside
    cwd = _decide_cwd(policy, context, problems)
    layers, possible = Protections(policy, features), namespaces_possible(policy, features)
    layers.decide(network, served=network_served, namespaces=possible)
    rules, writable = decide_grants(policy, handled := layers.handled_fs, cwd, context, problems)
    named, shows = _named(policy, served=network_served), shows_processes(rules)
    _refuse([*problems, *find_claims(policy, named=named, root=root, workdir=workdir)])
    alone = network is None and not (network_served or policy.extra_allow_syscalls or layers.disabled("unix_sockets"))
    devices = openable_devices(rules, root) if layers.no_devices else None
    own = {"named": named, "alone": alone, "own_pids": layers.own_pids, "own_network": layers.own_network}
    view = decide_view(policy, rules, handled, root, workdir, **own) if possible else None
    served_view = decide_served_view(policy, rules, handled, root, workdir) if not possible else None
    if view is None and shows:
        hidden = policy.supervisor and "fs_denied" in features.served
        layers.bare_proc(hidden=hidden, lost=policy.supervisor)
        served = (*served, "fs_readable") if hidden else served
    shown, places = served_view is not None, _writable(policy, writable, root, workdir)
    mounts = _decide_metadata(policy, layers, places, possible=possible, shown=shown)
    if handled and layers.disabled("fs_refer"):
        rules["/"] = (rules.get("/", (0, True))[0] | landlock.FS_REFER, rules.get("/", (0, True))[1])
    protections = layers.finish()
    return Plan(
        fs_rules=tuple([(path, access, required) for path, (access, required) in rules.items()]) if handled else (),
        handled_fs=handled,
        handled_net=network.handled(layers.handled_net) if network is not None else layers.handled_net,
        scoped=layers.scoped,
        port_rules=network.rules(layers.handled_net) if network is not None else (),
        filter=_filter_options(policy, layers, network, served=network_served, mounts=mounts is not None, shown=shown),
        writable_mounts=mounts,
        devices=devices,
        view=view,
        served_view=served_view,
        env=_decide_env(policy, context),
        cwd=cwd,
        private_tmp=policy.private_tmp,
        rlimits=_decide_rlimits(policy),
        affinity=policy.cpu_cores or None,
        inner_ids=inner_ids,
        no_randomize_memory=policy.no_randomize_memory,
        no_huge_pages=policy.no_huge_pages,
        max_cpu=policy.max_cpu,
        num_cpus=policy.num_cpus,
        timeout_s=policy.timeout,
        grace_s=policy.grace,
        needs_supervisor=(*served, "net_allow") if network_served and "net_allow" not in served else served,
        protections=protections,
    )


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise PolicyError(problems)


def _filter_options(
    policy: Policy, layers: Protections, network: KernelNetwork | None, *, served: bool, mounts: bool, shown: bool
) -> FilterOptions:
    return FilterOptions(
        tcp=network is not None,
        listen=network is not None and network.listens,
        unix_sockets=layers.disabled("unix_sockets"),
        served_network=served,
        deny_metadata=not (mounts or shown or layers.disabled("fs_metadata")),
        served_metadata=shown and not layers.disabled("fs_metadata"),
        deny_truncate=layers.no_truncate,
        deny_input_signals=layers.own_pids,
        deny_given_sockets=layers.no_connects,
        extra_deny=policy.extra_deny_syscalls,
        extra_allow=policy.extra_allow_syscalls,
    )


def _served_fields(policy: Policy, features: HostFeatures, problems: list[Problem]) -> tuple[str, ...]:
    """Return the fields that the supervisor must serve; each that nothing here enforces is a problem."""
    wanted = [field for field in FIELDS if field.enforced == SERVED and getattr(policy, field.name) != field.default]
    if namespaces_possible(policy, features):
        wanted = [field for field in wanted if field.name not in NAMESPACED]
    for field in wanted:
        if policy.supervisor and field.name in features.served:
            continue
        if field.name in NAMESPACED and field.name not in features.served:
            reason = "needs namespaces or the supervisor, and this host, or the policy, does without either"
            remedy = "allow namespaces; in a container allow pidfd_getfd(2) (--cap-add SYS_PTRACE); or leave it out"
        elif not policy.supervisor:
            reason = "needs the supervisor, which the policy switches off"
            remedy = "drop supervisor=False (--no-supervisor)"
        else:
            reason = "needs copies of the program's file descriptors, and pidfd_getfd(2) is refused around this process"
            remedy = (
                "allow the call (for a container: --cap-add SYS_PTRACE, or a seccomp profile with it), or leave it out"
            )
        flag = f" ({field.flags[-1]})" if field.flags else ""
        value = getattr(policy, field.name)
        problems.append(Problem(field.path, repr(value), f"{field.name}{flag} {reason}", remedy))
    return tuple([field.name for field in wanted])


def _decide_ids(
    policy: Policy, features: HostFeatures, context: Context, problems: list[Problem]
) -> tuple[int, int] | None:
    """Return the ids that the user namespace shows for the caller's own, or None for these."""
    for name in ("uid", "gid"):
        value = getattr(policy, name)
        if value is None:
            continue
        path = FIELD_BY_NAME[name].path
        if not namespaces_possible(policy, features):
            reason = "needs a user namespace, which this host, or the policy, does not let us make"
            problems.append(Problem(path, repr(value), f"{name} (--{name}) {reason}", "allow them, or leave it out"))
        others = [other for other in ("fs_denied", "deterministic_dirs") if getattr(policy, other)]
        for other in [*others, "policy_fn"] if context.hooked else others:
            reason = f"with {other} files are shown by the supervisor, which sees their owners outside"
            problems.append(Problem(path, repr(value), reason, f"leave {other} or {name} out"))
    if policy.uid is None and policy.gid is None:
        return None
    return (
        context.uid if policy.uid is None else policy.uid,
        context.gid if policy.gid is None else policy.gid,
    )


def _decide_network(
    policy: Policy, features: HostFeatures, context: Context, problems: list[Problem]
) -> tuple[KernelNetwork | None, bool]:
    """Return what the kernel enforces of the network rules, or None; and whether the supervisor does it instead."""
    ports = bool(policy.net_allow or policy.net_allow_bind or policy.net_deny_bind)
    requests = policy.http_allow or policy.http_deny or policy.http_auth
    served = bool(policy.net_deny or policy.unix_allow or policy.port_remap or requests)
    if not (ports or served):
        return None, False
    from sandlock_policy.network import decide_network  # lazy: most runs have no network

    beyond: list[Problem] = []
    kernel = decide_network(policy, beyond) if ports else None
    # Landlock knows bind, not listen without it: only a supervisor keeps a program off ports that the kernel picks.
    unbound = kernel is not None and kernel.listens and not kernel.any_bind
    wanted = served or context.hooked or beyond or (unbound and "net_listen" not in policy.allow_degraded)
    wanted = wanted or not (features.landlock_net or {"net_tcp"} & {*policy.allow_degraded, *policy.disable})
    if wanted and policy.supervisor and "net_allow" in features.served:
        return None, True
    problems += beyond
    return kernel, False


def _named(policy: Policy, *, served: bool) -> bool:
    """Whether the rules of a served network have names of hosts."""
    if not served or not (policy.net_allow or policy.http_allow):
        return False
    from sandlock_policy.matching import has_names  # lazy: only network rules have names

    return has_names(policy)


def _decide_cwd(policy: Policy, context: Context, problems: list[Problem]) -> str:
    if policy.cwd is None:
        return context.cwd
    try:
        return expand_path(policy.cwd, cwd=context.cwd, home=context.home, variables=context.env)
    except RuleError as fault:
        problems.append(Problem("program.cwd", policy.cwd, str(fault), fault.remedy))
        return context.cwd


def _decide_folders(policy: Policy, context: Context, problems: list[Problem]) -> tuple[str | None, str | None]:
    """Return the root and the copy-on-write folder, absolute on the host."""
    root = _decide_folder("chroot", policy.chroot, context, problems)
    workdir = _decide_folder("workdir", policy.workdir, context, problems)
    if root is not None and workdir is not None and not f"{workdir}/".startswith(f"{root}/"):
        problems.append(Problem("filesystem.workdir", workdir, f"is not below the root {root}", "name a folder in it"))
    return root, workdir


def _decide_folder(name: str, written: str | None, context: Context, problems: list[Problem]) -> str | None:
    """Return the absolute path of a folder on the host that field `name` has, or None."""
    if written is None:
        return None
    if written == CWD[1:]:
        if cwd_is_work(context.cwd, context.home):
            return context.cwd
        reason = f"stands for the current directory, and {context.cwd} is no place of one project's work"
        problems.append(Problem(FIELD_BY_NAME[name].path, written, reason, "change into one, or name the folder"))
        return None
    try:
        return expand_path(written, cwd=context.cwd, home=context.home, variables=context.env)
    except RuleError as fault:
        problems.append(Problem(FIELD_BY_NAME[name].path, written, str(fault), fault.remedy))
        return None


def _writable(policy: Policy, grants: list[str], root: str | None, workdir: str | None) -> tuple[str, ...] | None:
    """Return the places, on the host, that stay writable; None when no write is granted at all.

    A writable mount brings its own: it is taken before the rest becomes read-only.
    """
    places = writable_places(grants)
    if root is not None:
        places = tuple([root.rstrip("/") + path for path in places])
    if workdir is not None:
        places = (*places, workdir)
    return places if places or policy.private_tmp or policy.fs_mount else None


def _decide_metadata(
    policy: Policy, layers: Protections, places: tuple[str, ...] | None, *, possible: bool, shown: bool = False
) -> tuple[str, ...] | None:
    """Decide what keeps chmod and its kin inside the write grants; Landlock does not cover them.

    Where nothing is writable seccomp refuses them all, which is exact. Otherwise a mount namespace, read-only but for
    the grants, is exact, and seccomp, where there can be none, stricter than asked. Where the supervisor serves
    the files all the same (`shown`), it decides about these calls too.
    """
    required = policy.namespaces == "require"
    if required and not possible:
        reason = "the policy requires namespaces, which this host does not let us make"
        raise LayerMissingError("namespace", ["fs_metadata"], reason, "write namespaces = 'auto' (--namespaces auto)")
    if layers.disabled("fs_metadata"):
        layers.row("fs_metadata", "disabled", "seccomp")
        return None
    if possible and (required or places is not None or layers.by_mounts):
        layers.row("fs_metadata", "active", "namespace")
        return places or ()
    if shown:
        layers.row("fs_metadata", "active", "supervisor")
        return None
    detail = "chmod, chown, utime and xattr calls are refused below write grants too" if places is not None else ""
    layers.row("fs_metadata", "active", "seccomp", detail)
    return None


def _decide_env(policy: Policy, context: Context) -> dict[str, str]:
    outside = context.env
    if policy.clean_env:
        env = {name: outside[name] for name in _CLEAN if name in outside}
        env.setdefault("PATH", DEFAULT_PATH)
        if context.home:
            env.setdefault("HOME", context.home)
    else:
        env = dict(outside)
    for source in policy.credentials.values():
        # The proxy attaches these; the program must not be able to read them instead.
        env.pop(source.removeprefix("env:"), None)
    for name, value in policy.env.items():
        if value is not None:
            home = value[:7] == "${HOME}" and value[7:8] in ("", "/")
            env[name] = context.home + value[7:] if home else value
        elif name in outside:
            env[name] = outside[name]
    if policy.gpu_devices is not None:
        from sandlock_policy.gpu import gpu_variables  # lazy, as above

        env = gpu_variables(policy.gpu_devices) | env
    return env


def _decide_rlimits(policy: Policy) -> tuple[tuple[int, int, int], ...]:
    limits = []
    if policy.no_coredump:
        # 1, not 0: only this keeps a dump from a core_pattern that is a pipe, and no dump fits into a byte (core(5)).
        limits.append((_RLIMIT_CORE, 1, 1))
    if policy.max_open_files is not None:
        limits.append((_RLIMIT_NOFILE, policy.max_open_files, policy.max_open_files))
    return tuple(limits)
