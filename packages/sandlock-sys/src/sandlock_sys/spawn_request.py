"""What a launch is asked for, as `spawn` takes it; that module hands all of this on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_sys._buffers import Strings

__all__ = [
    "HOST_CLOCK",
    "LIVE_HOST",
    "LIVE_LOAD",
    "LIVE_STAT",
    "NO_ASLR",
    "NO_DEVICES",
    "NO_THP",
    "NULL_DEVICE",
    "OWN_MEMORY",
    "TERMINAL",
    "SpawnRequest",
]

LIVE_LOAD, LIVE_STAT, LIVE_HOST = 1, 2, 3  # in `SpawnRequest.live`: SL_LIVE_* + 1

NO_DEVICES = 2  # in `SpawnRequest.binds`: read only, and no device below is opened
NULL_DEVICE = -1  # in `SpawnRequest.stdio`: the child opens /dev/null itself
OWN_MEMORY = 1 << 1  # the child gets a copy of the memory instead of sharing it until it executes
NO_ASLR = 1 << 4  # personality(ADDR_NO_RANDOMIZE)
NO_THP = 1 << 5  # PR_SET_THP_DISABLE; the child then gets a copy of the memory, because the flag belongs to it
HOST_CLOCK = 1 << 11  # with `pid_namespace`: the time since boot is the host's
TERMINAL = 1 << 8  # stdin is a terminal that no session has: it becomes the child's, with job control


class SpawnRequest:
    """What the child is to be. Every value is plain; nothing is opened or owned here.

    Attributes:
        argv: at least one byte string.
        env: `NAME=value` byte strings, or `Strings` of them, made once for many launches.
        candidates: paths to execute, tried in order as execvp(3) does; a refusal outlives a later "not there".
        cwd: where it starts, or None for the caller's directory.
        stdio: fds that become 0, 1 and 2, or NULL_DEVICE; the caller's, left open here.
        keep: fds that stay open at their numbers.
        limits: `(resource, soft, hard)` for prlimit64(2).
        affinity: cpu numbers, or empty.
        filter: struct sock_filter array, or b"".
        filter_flags: SECCOMP_FILTER_FLAG_*.
        ruleset: the child's Landlock ruleset fd, or -1.
        guard_ruleset: the Landlock ruleset fd of the domain around guard and child, or -1.
        scoped: that domain has the signal scope, so the guard may use kill(-1); else it walks /proc.
        writable: None, or the paths that stay writable in a mount namespace where all else becomes read-only.
        devices: None, or, with `writable`, the only paths outside it where devices are opened.
        pid_namespace: the child sees no process but its own tree, in a read-only /proc of its own, and the time since
            boot begins with it; that tree ends with an init of ours, so there is no `guard_ruleset` then.
        hostname: None, or the host name inside, of at most 64 bytes.
        root: None, or the folder that becomes the root; nothing outside it can be reached.
        branch: None, or `(folder, mount options)`: an overlay mount covers the folder; name it in `writable` too.
        binds: `(host path, path inside, read only or NO_DEVICES)`: trees of the host at paths that are in the new root.
        overlays: `(path inside, content)`: read-only files laid over those that are there.
        live: of `overlays`, those that are written anew while the sandbox runs: path -> LIVE_LOAD or LIVE_STAT, by the
            init of a pid namespace; LIVE_HOST, by who takes `Spawned.live` while the child is parked.
        network_namespace: no interface, and in /proc nobody's sockets; with `pid_namespace` only.
        keeps_network: nobody outside can be handed an fd by what runs inside, so that a later launch may have the
            network namespace when this sandbox has ended.
        rules: `(path inside, Landlock rights)` added to `ruleset` when all this is done, for what only then is what it
            will be: a rule of the host's for /proc, or for a file that an overlay covers, does not reach it.
        id_map: None, or the caller's (uid, gid), for a user namespace where making the mounts needs one.
        inner_ids: None, or (uid, gid) that such a namespace, made for this alone too, shows for those of `id_map`.
        flags: NO_ASLR, NO_THP, TERMINAL, HOST_CLOCK.
        park: stop, confined, before exec, until `Spawned.go()`.
        relay: -1, or a socket over which the child passes its listener, and what LIVE_HOST names, before it parks: for
            hosts where pidfd_getfd(2) is refused. For a filter with a listener; it is not left to the program.

    """

    __slots__ = (
        "affinity", "argv", "binds", "branch", "candidates", "cwd", "devices", "env", "filter", "filter_flags", "flags",
        "guard_ruleset", "hostname", "id_map", "inner_ids", "keep", "keeps_network", "limits", "live",
        "network_namespace", "overlays", "park", "pid_namespace", "relay", "root", "rules", "ruleset", "scoped",
        "stdio", "writable",
    )  # fmt: skip

    def __init__(self, argv: Sequence[bytes], candidates: Sequence[bytes], env: Sequence[bytes] | Strings = ()) -> None:
        self.argv = argv
        self.candidates = candidates
        self.env = env
        self.cwd: bytes | None = None
        self.stdio: tuple[int, int, int] = (0, 1, 2)
        self.keep: Sequence[int] = ()
        self.limits: Sequence[tuple[int, int, int]] = ()
        self.affinity: Sequence[int] = ()
        self.filter = b""
        self.filter_flags = 0
        self.ruleset = -1
        self.guard_ruleset = -1
        self.scoped = False
        self.writable: Sequence[bytes] | None = None
        self.devices: Sequence[bytes] | None = None
        self.pid_namespace = False
        self.hostname: bytes | None = None
        self.root: bytes | None = None
        self.branch: tuple[bytes, bytes] | None = None
        self.binds: Sequence[tuple[bytes, bytes, int]] = ()
        self.overlays: Sequence[tuple[bytes, bytes]] = ()
        self.live: Mapping[bytes, int] = {}
        self.network_namespace = self.keeps_network = False
        self.rules: Sequence[tuple[bytes, int]] = ()
        self.id_map: tuple[int, int] | None = None
        self.inner_ids: tuple[int, int] | None = None
        self.flags = 0
        self.park = False
        self.relay = -1
