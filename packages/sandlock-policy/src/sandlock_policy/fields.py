"""The one table of policy fields: Python name, TOML key, flag, default, kind, enforcement and help of each.

Validation, profiles, merging, command-line options, completion and the reference page are all driven by it.
"""

from __future__ import annotations

from sandlock_policy.record import FrozenDict, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FIELDS", "FIELD_BY_NAME", "GROUPS", "KERNEL", "KINDS", "SERVED", "Field"]

KERNEL = "kernel"  # enforced by Landlock, seccomp, rlimits, namespaces or the launch itself
SERVED = "served"  # needs the supervisor to answer calls
BY_VALUE = "by value"  # some values by the kernel, the others by the supervisor: network rules


@record(frozen=True, slots=True)
class Field:
    """One field of a policy.

    `key` is its TOML path, empty where a profile cannot hold it; `flags` its command-line spellings, `off_flag` the
    one that sets a boolean to false; `kind` names the grammar (`KINDS`); `enforced` says by whom: `kernel`, `served`
    or, where it depends on the value, `by value`.
    """

    name: str
    key: str
    flags: tuple[str, ...]
    metavar: str
    default: Any
    kind: str
    enforced: str
    help: str
    off_flag: str = ""

    @property
    def shape(self) -> str:
        """Say how values of this field are written: `one`, `list` or `mapping`."""
        return KINDS[self.kind][0]

    @property
    def group(self) -> str:
        """Give the TOML table that this field is in, or an empty string."""
        return self.key.partition(".")[0]

    @property
    def path(self) -> str:
        """Give the name that errors use: the TOML path, or the Python name where there is none."""
        return self.key or self.name


# The order and the titles of the groups in help and reference.
GROUPS: dict[str, str] = {
    "filesystem": "Files",
    "network": "Network",
    "http": "HTTP",
    "limits": "Limits and view",
    "determinism": "Determinism",
    "program": "Program",
    "": "Of one sandbox",
}

# kind -> (shape, "module:function" that turns one given item into its canonical value). Loaded when a field is set.
KINDS: dict[str, tuple[str, str]] = {
    "bool": ("one", "rules.scalars:parse_bool"),
    "count": ("one", "rules.scalars:parse_count"),
    "id": ("one", "rules.scalars:parse_id"),
    "seed": ("one", "rules.scalars:parse_seed"),
    "percent": ("one", "rules.scalars:parse_percent"),
    "name": ("one", "rules.scalars:parse_name"),
    "namespaces": ("one", "rules.scalars:parse_namespaces"),
    "branch_action": ("one", "rules.scalars:parse_branch_action"),
    "size": ("one", "rules.sizes:parse_size"),
    "duration": ("one", "rules.durations:parse_duration"),
    "duration0": ("one", "rules.durations:parse_duration_or_zero"),
    "time": ("one", "rules.times:parse_time"),
    "cores": ("one", "rules.numbers:parse_cores"),
    "gpus": ("one", "rules.numbers:parse_gpus"),
    "path": ("one", "paths:parse_path"),
    "image": ("one", "rules.images:parse_image"),
    "paths": ("list", "paths:parse_grant"),
    "mounts": ("mapping", "rules.mounts:parse_mount"),
    "mounts_ro": ("mapping", "rules.mounts:parse_mount_ro"),
    "endpoints": ("list", "rules.endpoints:check_endpoint"),
    "bind_ports": ("list", "rules.ports:check_bind"),
    "ports": ("list", "rules.ports:parse_port"),
    "http_rules": ("list", "rules.http:check_rule"),
    "http_auth": ("list", "rules.credentials:check_auth"),
    "credentials": ("mapping", "rules.credentials:parse_credential"),
    "env": ("mapping", "rules.environment:parse_variable"),
    "syscalls": ("list", "rules.names:parse_syscall"),
    "protections": ("list", "rules.names:parse_protection"),
    "disabled": ("list", "rules.names:parse_disabled"),
}

_K, _S, _V = KERNEL, SERVED, BY_VALUE
_NONE: FrozenDict[str, str] = FrozenDict()

# fmt: off
FIELDS: tuple[Field, ...] = (
    # Files
    Field("fs_readable", "filesystem.read", ("-r", "--fs-read"), "PATH", (), "paths", _K,
          "read and execute below PATH"),
    Field("fs_writable", "filesystem.write", ("-w", "--fs-write"), "PATH", (), "paths", _K,
          "also write, create, remove, link and truncate below PATH"),
    Field("fs_denied", "filesystem.deny", ("--fs-deny",), "PATH", (), "paths", _S,
          "carve PATH out of a grant, for every operation and every alias"),
    Field("chroot", "filesystem.chroot", ("--chroot",), "DIR", None, "path", _S,
          "virtual root: all paths are seen from inside DIR"),
    Field("fs_mount", "filesystem.mount", ("--fs-mount",), "V:H[:ro]", _NONE, "mounts", _S,
          "show host path H at virtual path V; `:ro` makes it read-only"),
    Field("fs_mount_ro", "filesystem.mount", (), "V:H", _NONE, "mounts_ro", _S,
          "show host path H at virtual path V, read-only (`V:H:ro` in profiles and on the command line)"),
    Field("workdir", "filesystem.workdir", ("--workdir",), "DIR", None, "path", _S,
          "copy-on-write below DIR: the real tree is seen, writes go to a branch"),
    Field("fs_storage", "filesystem.storage", ("--fs-storage",), "DIR", None, "path", _S,
          "where the branch of workdir is kept"),
    Field("on_exit", "filesystem.on_exit", ("--on-exit",), "ACTION", "commit", "branch_action", _S,
          "what becomes of the branch after success: commit, abort, keep or defer"),
    Field("on_error", "filesystem.on_error", ("--on-error",), "ACTION", "abort", "branch_action", _S,
          "what becomes of the branch after anything else: commit, abort, keep or defer"),
    Field("private_tmp", "filesystem.private_tmp", ("--private-tmp",), "", False, "bool", _K,
          "a private, writable temporary directory that TMPDIR names, removed afterwards", "--no-private-tmp"),
    # Network
    Field("net_allow", "network.allow", ("--net-allow",), "[SCHEME://]TARGET[:PORTS]", (), "endpoints", _V,
          "who may be reached; a list of `tcp://:PORTS` is enforced by the kernel alone"),
    Field("net_deny", "network.deny", ("--net-deny",), "[SCHEME://]TARGET[:PORTS]", (), "endpoints", _S,
          "who may not be reached; wins; alone it means that all else may; `private` names the private ranges"),
    Field("net_allow_bind", "network.allow_bind", ("--net-allow-bind",), "PORTS", (), "bind_ports", _V,
          "ports that may be bound and listened on"),
    Field("net_deny_bind", "network.deny_bind", ("--net-deny-bind",), "PORTS", (), "bind_ports", _V,
          "ports that may not be bound; wins"),
    Field("net_refresh", "network.refresh", ("--net-refresh",), "", False, "bool", _S,
          "resolve the allowed names again when their time to live is over", "--no-net-refresh"),
    Field("unix_allow", "network.unix", ("--unix-allow",), "PATH", (), "paths", _S,
          "pathname Unix sockets outside the sandbox that may be reached"),
    Field("port_remap", "network.port_remap", ("--port-remap",), "", False, "bool", _S,
          "own port space: bind(P) gets a free real port when P is taken", "--no-port-remap"),
    # HTTP
    Field("http_allow", "http.allow", ("--http-allow",), "RULE", (), "http_rules", _S,
          "requests that may pass: `METHOD HOST[:PORT]/PATH`; all else is refused"),
    Field("http_deny", "http.deny", ("--http-deny",), "RULE", (), "http_rules", _S,
          "requests that may not pass: `METHOD HOST[:PORT]/PATH`; looked at first"),
    Field("http_ports", "http.ports", ("--http-port",), "PORT", (), "ports", _S,
          "intercepted ports; 80, and 443 where there is a CA, when none is named"),
    Field("http_ca", "http.ca", ("--http-ca",), "FILE", None, "path", _S,
          "certificate of an own CA for TLS"),
    Field("http_key", "http.key", ("--http-key",), "FILE", None, "path", _S,
          "key of that CA"),
    Field("http_inject_ca", "http.inject_ca", ("--http-inject-ca",), "FILE", (), "paths", _S,
          "certificate bundle that an ephemeral CA is spliced into as it is opened"),
    Field("http_ca_out", "http.ca_out", ("--http-ca-out",), "FILE", None, "path", _S,
          "where the certificate of the ephemeral CA is written"),
    Field("credentials", "http.credentials", ("--credential",), "NAME=env:V|file:P|fd:N", _NONE, "credentials", _S,
          "a secret that the proxy attaches and the program never sees"),
    Field("http_auth", "http.auth", ("--http-auth",), "RULE SHAPE NAME [MODE]", (), "http_auth", _S,
          "where a credential goes; SHAPE is bearer, basic:USER, header:NAME or query:PARAM, MODE replace or add-only"),
    # Limits and view
    Field("max_memory", "limits.memory", ("-m", "--max-memory"), "SIZE", None, "size", _S,
          "anonymous and shared memory of the whole tree"),
    Field("max_processes", "limits.processes", ("-P", "--max-processes"), "N", None, "count", _S,
          "living processes, the first included"),
    Field("max_open_files", "limits.open_files", ("--max-open-files",), "N", None, "count", _K,
          "open files of each process (RLIMIT_NOFILE)"),
    Field("max_cpu", "limits.cpu", ("-c", "--cpu"), "PERCENT", None, "percent", _K,
          "per cent of one core for the whole tree"),
    Field("cpu_cores", "limits.cpu_cores", ("--cpu-cores",), "LIST", (), "cores", _K,
          "cores the tree may run on, such as `0,2-3`"),
    Field("num_cpus", "limits.num_cpus", ("--num-cpus",), "N", None, "count", _S,
          "how many processors the program sees"),
    Field("gpu_devices", "limits.gpu_devices", ("--gpu",), "all|LIST", None, "gpus", _K,
          "graphics processors that may be used, such as `all` or `0,2`"),
    Field("max_disk", "limits.disk", ("--max-disk",), "SIZE", None, "size", _S,
          "bytes that the branch of workdir may hold"),
    Field("timeout", "limits.timeout", ("-t", "--timeout"), "SECONDS", None, "duration", _K,
          "seconds until the whole tree gets SIGTERM"),
    Field("grace", "limits.grace", ("--grace",), "SECONDS", 2.0, "duration0", _K,
          "seconds between SIGTERM and SIGKILL after a timeout"),
    Field("policy_timeout_s", "limits.policy_timeout", (), "SECONDS", 5.0, "duration", _K,
          "seconds until a policy callback that has not answered counts as a refusal"),
    # Determinism
    Field("random_seed", "determinism.random_seed", ("--random-seed",), "N", None, "seed", _S,
          "the same seed and program give the same random bytes"),
    Field("time_start", "determinism.time_start", ("--time-start",), "TIME", None, "time", _S,
          "wall clock starts at this RFC 3339 time and runs"),
    Field("deterministic_dirs", "determinism.deterministic_dirs", ("--deterministic-dirs",), "", False, "bool", _S,
          "directories are listed in sorted order", "--no-deterministic-dirs"),
    Field("no_randomize_memory", "determinism.no_randomize_memory", ("--no-randomize-memory",), "", False, "bool", _K,
          "no address space randomisation", "--randomize-memory"),
    Field("no_huge_pages", "determinism.no_huge_pages", ("--no-huge-pages",), "", False, "bool", _K,
          "no transparent huge pages", "--huge-pages"),
    # Program
    Field("cwd", "program.cwd", ("--cwd",), "DIR", None, "path", _K,
          "where the program starts; the caller's directory when not set"),
    Field("clean_env", "program.clean_env", ("--clean-env",), "", True, "bool", _K,
          "pass PATH, HOME, USER, TERM and LANG and what `env` names, not the caller's whole environment",
          "--no-clean-env"),
    Field("env", "program.env", ("--env",), "NAME[=VALUE]", _NONE, "env", _K,
          "an environment variable to set, or to pass on"),
    Field("uid", "program.uid", ("--uid",), "N", None, "id", _V,
          "user id seen inside"),
    Field("gid", "program.gid", ("--gid",), "N", None, "id", _V,
          "group id seen inside"),
    Field("no_coredump", "program.no_coredump", ("--no-coredump",), "", True, "bool", _K,
          "no core dumps: they are written by the kernel, past every rule", "--coredump"),
    Field("extra_deny_syscalls", "program.extra_deny_syscalls", ("--extra-deny-syscalls",), "NAME", (), "syscalls", _K,
          "system calls, or groups of them, to refuse as well"),
    Field("extra_allow_syscalls", "program.extra_allow_syscalls", ("--extra-allow-syscalls",), "NAME", (), "syscalls",
          _K, "system calls, or groups of them, not to refuse"),
    Field("namespaces", "program.namespaces", ("--namespaces",), "auto|off|require", "auto", "namespaces", _K,
          "whether namespaces may be used where the host allows them"),
    Field("supervisor", "program.supervisor", ("--supervisor",), "", True, "bool", _K,
          "whether calls may be served; without it only what the kernel enforces can be asked for",
          "--no-supervisor"),
    Field("allow_degraded", "program.allow_degraded", ("--allow-degraded",), "PROTECTION", (), "protections", _K,
          "protections that the host may lack"),
    Field("disable", "program.disable", ("--disable",), "PROTECTION", (), "disabled", _K,
          "protections to switch off"),
    # Of one sandbox, never of a profile
    Field("name", "", ("--name",), "NAME", None, "name", _S,
          "name of the sandbox, and its virtual host name"),
    Field("image", "", ("--image",), "oci:DIR|oci-archive:FILE", None, "image", _S,
          "root file system to run in; writes are discarded"),
)
# fmt: on

FIELD_BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}
