"""Which layer protects what on this host, and what the host cannot protect."""

from __future__ import annotations

from sandlock_policy.data import landlock
from sandlock_policy.data.protections import PROTECTIONS
from sandlock_policy.errors import LayerMissingError
from sandlock_policy.plan import Protection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy.features import HostFeatures
    from sandlock_policy.model import Policy
    from sandlock_policy.network import KernelNetwork

__all__ = ["Protections"]

_BASE = sum([bit for bit, abi, _ in landlock.FS_RIGHTS.values() if abi == 1])


class Protections:
    """The protections of one resolution, filled in by `decide`; what is missing ends in one error."""

    def __init__(self, policy: Policy, features: HostFeatures) -> None:
        """Start with nothing decided."""
        self._policy = policy
        self._features = features
        self._rows: dict[str, Protection] = {}
        self._missing: list[tuple[str, str, str]] = []
        self.handled_fs = 0
        self.handled_net = 0
        self.scoped = 0
        self.namespaces = False
        self.by_mounts = self.no_devices = self.no_truncate = self.own_pids = self.own_network = False
        self.no_connects = False

    def disabled(self, name: str) -> bool:
        """Tell whether the policy switches `name` off."""
        return name in self._policy.disable

    def row(self, name: str, state: str, layer: str, detail: str = "") -> None:
        """Record the state of protection `name`."""
        self._rows[name] = Protection(name, state, layer, detail)

    def lack(self, name: str, layer: str, reason: str) -> None:
        """Record that this host cannot give `name`: degraded where the policy agrees, missing otherwise."""
        if name not in self._policy.allow_degraded:
            self._missing.append((layer, name, reason))
        self.row(name, "degraded", layer, reason)

    def bare_proc(self, *, hidden: bool, lost: bool) -> None:
        """Record whether the processes of others can be seen in a /proc that is the host's.

        `lost` says that a supervisor would hide them, had this host what that takes.
        """
        if hidden:
            self.row("fs_access", "active", "landlock", "the supervisor hides the processes of others in /proc")
        elif self.handled_fs:
            state = "degraded" if lost else "active"
            self.row("fs_access", state, "landlock", "/proc is granted as it is, with the processes of others in it")

    def decide(self, network: KernelNetwork | None, *, served: bool = False, namespaces: bool = False) -> None:
        """Decide all that is protected.

        `network`: what the kernel enforces of the network, None where no socket may be made; `served`: the supervisor
        decides about it instead; `namespaces`: they may be made, and hold what an old Landlock does not.
        """
        self.namespaces = namespaces
        self._decide_files()
        if served:
            self._serve_network()
        else:
            listen, any_bind = (network.listens, network.any_bind) if network is not None else (False, False)
            self._decide_network(tcp=network is not None, listen=listen, any_bind=any_bind)
        alone = network is None and not served and not self._policy.extra_allow_syscalls
        self._decide_scopes(served=served, alone=alone)
        self.row("syscalls", "active", "seccomp")
        if self.scoped & landlock.SCOPE_SIGNAL:
            self.row("tree_kill", "active", "guard")
        elif self.own_pids:
            self.row("tree_kill", "active", "namespace")
        else:
            detail = "without the signal scope processes are found one by one, and one that forks fast may be missed"
            self.row("tree_kill", "degraded", "guard", detail)

    def finish(self) -> tuple[Protection, ...]:
        """Return all rows in the order of the table; raise LayerMissingError where one is missing."""
        if self._missing:
            names = [name for _, name, _ in self._missing]
            reason = "; ".join(dict.fromkeys([reason for _, _, reason in self._missing]))
            remedy = f"to run without, name {', '.join(names)} in allow_degraded (--allow-degraded {','.join(names)})"
            raise LayerMissingError(self._missing[0][0], names, reason, remedy)
        return tuple([self._rows[name] for name in PROTECTIONS])

    def _decide_files(self) -> None:
        abi = self._features.landlock_abi
        if self.disabled("fs_access"):
            for name in ("fs_access", "fs_refer", "fs_truncate", "fs_ioctl_dev"):
                self.row(name, "disabled", "landlock", "" if name == "fs_access" else "fs_access is disabled")
            return
        if self._features.landlock_fs & _BASE != _BASE:
            absent = "Landlock is not available here" if abi == 0 else f"Landlock (ABI {abi}) lacks basic rights here"
            for name in ("fs_access", "fs_refer", "fs_truncate", "fs_ioctl_dev"):
                self.lack(name, "landlock", absent)
            return
        self.handled_fs = self._features.landlock_fs
        self.row("fs_access", "active", "landlock")
        self._decide_refer()
        for name, right in (("fs_truncate", "truncate"), ("fs_ioctl_dev", "ioctl_dev")):
            bit, first_abi, kernel = landlock.FS_RIGHTS[right]
            if self.disabled(name):
                self.handled_fs &= ~bit
                self.row(name, "disabled", "landlock")
            elif self.handled_fs & bit:
                self.row(name, "active", "landlock")
            elif self.namespaces and not self.disabled("fs_metadata"):
                self._mount_instead(name)
            elif name == "fs_truncate":
                self.no_truncate = True
                detail = "truncate(2) by path, and opening for reading alone with O_TRUNC, are refused everywhere"
                self.row(name, "active", "seccomp", detail)
            else:
                self.lack(name, "landlock", self._needs(name, first_abi, kernel))

    def _mount_instead(self, name: str) -> None:
        """Hold `name` by mounts: outside the write grants nothing is written, and no device opened but the harmless."""
        self.by_mounts = True
        detail = ""
        if name == "fs_ioctl_dev":
            self.no_devices = True
            detail = "a device that may only be read is not opened, but for /dev/null and its like"
        self.row(name, "active", "namespace", detail)

    def _decide_refer(self) -> None:
        if self.disabled("fs_refer"):
            self.row("fs_refer", "disabled", "landlock", "files may be linked and renamed across grants")
        elif self.handled_fs & landlock.FS_REFER:
            self.row("fs_refer", "active", "landlock")
        else:
            # Stricter than asked, so nobody has to agree: a domain that cannot handle the right denies it always.
            detail = "this kernel refuses every link and rename into another directory, below write grants too"
            self.row("fs_refer", "degraded", "landlock", detail)

    def _decide_network(self, *, tcp: bool, listen: bool, any_bind: bool) -> None:
        both = landlock.NET_BIND_TCP | landlock.NET_CONNECT_TCP
        self.handled_net = 0 if self.disabled("net_tcp") else self._features.landlock_net & both
        if not tcp:
            self.row("net_sockets", "active", "seccomp", "no IP socket can be made")
            if self.disabled("net_tcp"):
                self.row("net_tcp", "disabled", "landlock", "no IP socket can be made; one that is passed in is open")
            else:
                # With Unix sockets of its own the program needs both calls: the launch looks at what it passes.
                self.no_connects = not self.handled_net and not self.disabled("unix_sockets")
                layer = "landlock" if self.handled_net else "seccomp"
                self.row("net_tcp", "active", layer, "no IP socket can be made")
        else:
            self.row("net_sockets", "active", "seccomp", "only TCP sockets can be made")
            if self.disabled("net_tcp"):
                self.row("net_tcp", "disabled", "landlock", "TCP reaches every port")
            elif self.handled_net == both:
                self.row("net_tcp", "active", "landlock")
            else:
                _, first_abi, kernel = landlock.NET_RIGHTS["connect_tcp"]
                self.lack("net_tcp", "landlock", self._needs("net_tcp", first_abi, kernel, namespaces=False))
        if not listen:
            self.row("net_listen", "active", "seccomp", "listen is refused")
        elif any_bind:
            self.row("net_listen", "active", "landlock", "every port may be bound")
        else:
            reason = "without the supervisor a program that may listen can do so unbound, on a port the kernel picks"
            self.lack("net_listen", "supervisor", reason)

    def _serve_network(self) -> None:
        both = landlock.NET_BIND_TCP | landlock.NET_CONNECT_TCP
        self.handled_net = 0 if self.disabled("net_tcp") else self._features.landlock_net & both
        self.row("net_tcp", "active", "supervisor", "connects and binds are made on behalf, after the rules passed")
        self.row("net_sockets", "active", "seccomp", "only sockets that the rules speak of can be made")
        self.row("net_listen", "active", "supervisor")

    def _decide_scopes(self, *, served: bool, alone: bool) -> None:
        unix_off = self.disabled("unix_sockets")
        detail = "every Unix socket that files and scopes let through may be reached" if unix_off else ""
        if self._policy.unix_allow:
            from sandlock_policy.services import services_of  # lazy: few policies name sockets

            detail = detail or services_of(self._policy.unix_allow)
        self.row("unix_sockets", "disabled" if unix_off else "active", "supervisor" if served else "seccomp", detail)
        for name, scope in (("scope_abstract", "abstract_unix_socket"), ("scope_signal", "signal")):
            bit, first_abi, kernel = landlock.SCOPES[scope]
            if self.disabled(name):
                self.row(name, "disabled", "landlock")
            elif self._features.landlock_scopes & bit:
                self.scoped |= bit
                self.row(name, "active", "landlock")
            elif not self._hold_instead(name, unix_off=unix_off, served=served, alone=alone):
                possible = not self.namespaces and (name == "scope_signal" or alone)
                self.lack(name, "landlock", self._needs(name, first_abi, kernel, namespaces=possible))

    def _hold_instead(self, name: str, *, unix_off: bool, served: bool, alone: bool) -> bool:
        """Hold a scope that this Landlock does not have by another layer; False where none does."""
        if name == "scope_signal":
            self.own_pids = self.namespaces
            if self.own_pids:
                self.row(name, "active", "namespace", "only processes of the sandbox have a number inside")
            return self.own_pids
        if not unix_off:
            detail = "only names of the sandbox's own sockets are reached" if served else "no Unix socket can be made"
            self.row(name, "active", "supervisor" if served else "seccomp", detail)
            return True
        # It comes with a pid namespace, which would keep in the signals that the policy lets out.
        self.own_network = self.namespaces and alone and not self.disabled("scope_signal")
        if self.own_network:
            self.row(name, "active", "namespace", "the names belong to a network namespace of the run's own")
        return self.own_network

    def _needs(self, name: str, first_abi: int, kernel: str, *, namespaces: bool = True) -> str:
        abi = self._features.landlock_abi
        have = f"has ABI {abi}" if abi else "is absent"
        instead = ""
        if namespaces and self.namespaces:
            instead = ", or read-only mounts, which disable = fs_metadata does without"
        elif namespaces:
            refused = self._policy.namespaces != "off" and self._policy.max_disk is None
            instead = f", or namespaces, which this {'host' if refused else 'policy'} does without"
        return f"{name} needs Landlock ABI {first_abi} (Linux {kernel}), which {have} here{instead}"
