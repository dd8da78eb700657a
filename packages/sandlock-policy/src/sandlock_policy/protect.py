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

    def decide(self, network: KernelNetwork | None, *, served: bool = False) -> None:
        """Decide all that is protected.

        `network`: what the kernel enforces of the network, None where no socket may be made; `served`: the supervisor
        decides about it instead.
        """
        self._decide_files()
        if served:
            self._serve_network()
        else:
            listen, any_bind = (network.listens, network.any_bind) if network is not None else (False, False)
            self._decide_network(tcp=network is not None, listen=listen, any_bind=any_bind)
        self._decide_scopes(served=served)
        self.row("syscalls", "active", "seccomp")
        if self.scoped & landlock.SCOPE_SIGNAL:
            self.row("tree_kill", "active", "guard")
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
            else:
                self.lack(name, "landlock", _needs(name, abi, first_abi, kernel))

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
            self.row("net_tcp", "active", "landlock" if self.handled_net else "seccomp", "no IP socket can be made")
        else:
            self.row("net_sockets", "active", "seccomp", "only TCP sockets can be made")
            if self.disabled("net_tcp"):
                self.row("net_tcp", "disabled", "landlock", "TCP reaches every port")
            elif self.handled_net == both:
                self.row("net_tcp", "active", "landlock")
            else:
                _, first_abi, kernel = landlock.NET_RIGHTS["connect_tcp"]
                self.lack("net_tcp", "landlock", _needs("net_tcp", self._features.landlock_abi, first_abi, kernel))
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

    def _decide_scopes(self, *, served: bool) -> None:
        abi = self._features.landlock_abi
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
            elif name == "scope_abstract" and not unix_off and not served:
                self.row(name, "active", "seccomp", "no Unix socket can be made")
            else:
                self.lack(name, "landlock", _needs(name, abi, first_abi, kernel))


def _needs(name: str, abi: int, first_abi: int, kernel: str) -> str:
    have = f"has ABI {abi}" if abi else "is absent"
    return f"{name} needs Landlock ABI {first_abi} (Linux {kernel}), which {have} here"
