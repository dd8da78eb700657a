"""What a launch has to do: the values that resolution hands to the runtime."""

from __future__ import annotations

from sandlock_policy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandlock_policy.seccomp.options import FilterOptions
    from sandlock_policy.view import View

__all__ = ["Context", "Plan", "Protection"]


@record(frozen=True, slots=True)
class Context:
    """What a policy is resolved against besides the host: the caller and the program of one run.

    `cwd` and `home` are absolute; `env` is the caller's environment. `program` is the absolute path of the file that
    will be executed, links not resolved, and `program_folders` what `sandlock_policy.programs.program_folders` found
    it to need; both are empty where they are not known, and only policies that hold `-${PROGRAM}` use them. `hooked`: a
    policy callback decides about the network as well, so that the kernel alone will not do.
    """

    cwd: str
    home: str
    env: Mapping[str, str]
    uid: int
    gid: int
    program: str = ""
    program_folders: tuple[str, ...] = ()
    hooked: bool = False


@record(frozen=True, slots=True)
class Protection:
    """One thing that is protected: by which layer, and whether it really is.

    `state` is `active`, `degraded` or `disabled`; `layer` is `landlock`, `seccomp`, `namespace`, `guard` or
    `supervisor`.
    """

    name: str
    state: str
    layer: str
    detail: str = ""


@record(frozen=True, slots=True)
class Plan:
    """A policy, resolved against one host and one run.

    Attributes:
        fs_rules: (absolute path, LANDLOCK_ACCESS_FS_* bits, required): a required path that is missing is an error.
        handled_fs, handled_net, scoped: the masks of the Landlock ruleset; all zero means no ruleset.
        port_rules: (TCP port, LANDLOCK_ACCESS_NET_* bits).
        filter: what the seccomp filter is compiled from.
        writable_mounts: None, or the paths that stay writable in a mount namespace where all else is read-only.
        devices: None, or, with `writable_mounts`, the devices and folders of devices that are opened all the same where
            no other device outside those paths is.
        env, cwd: what the program starts with.
        private_tmp: whether a private temporary directory is to be made, granted, and named by TMPDIR.
        rlimits: (RLIMIT_*, soft, hard).
        affinity: cores, or None for the caller's.
        no_randomize_memory, no_huge_pages: personality and prctl of the program.
        inner_ids: (uid, gid) that a user namespace shows for the caller's own, or None for these.
        max_cpu: per cent of one core for the tree, or None.
        num_cpus: how many processors are shown, or None for the machine's.
        timeout_s: seconds until SIGTERM, or None; `grace_s`: seconds from there to SIGKILL.
        view: what namespaces show of the machine, or None for the host as it is.
        served_view: root, mounts and branch that the supervisor shows where there are no namespaces, or None.
        needs_supervisor: Python names of the fields that the supervisor must serve.
        protections: every protection and its state, in the order of the table.

    """

    fs_rules: tuple[tuple[str, int, bool], ...]
    handled_fs: int
    handled_net: int
    scoped: int
    port_rules: tuple[tuple[int, int], ...]
    filter: FilterOptions
    writable_mounts: tuple[str, ...] | None
    devices: tuple[str, ...] | None
    view: View | None
    served_view: View | None
    env: dict[str, str]
    cwd: str
    private_tmp: bool
    rlimits: tuple[tuple[int, int, int], ...]
    affinity: tuple[int, ...] | None
    no_randomize_memory: bool
    no_huge_pages: bool
    inner_ids: tuple[int, int] | None
    max_cpu: int | None
    num_cpus: int | None
    timeout_s: float | None
    grace_s: float
    needs_supervisor: tuple[str, ...]
    protections: tuple[Protection, ...]
