"""Another root, mounts and a branch without namespaces: what the supervisor is to show, and the rights there.

Everything is looked up once, inside the root and following no link out of it, and held by an fd until the child is
confined: what the launch grants is the very object that was found, whatever becomes of its name.
"""

from __future__ import annotations

import os
from errno import ENOENT, ENOTDIR
from typing import TYPE_CHECKING

from sandlock_notif.fs.lookup import look_up
from sandlock_notif.fs.mount import Bind
from sandlock_policy.data.landlock import FS_IOCTL_DEV, FS_READ_FILE, FS_TRUNCATE, FS_WRITE_FILE, NEVER, READ
from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.paths import is_below
from sandlock_runtime.branching import RunBranch, writable_folders
from sandlock_runtime.failure import missing_path
from sandlock_runtime.view import check_mounts, device_nodes
from sandlock_sys.errors import SyscallError
from sandlock_sys.landlock import OPTIONAL, PathRules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandlock_cow import Branch
    from sandlock_policy import Context, Plan, Policy
    from sandlock_sys.spawn import SpawnRequest

__all__ = ["ServedView"]

_PATH_ONLY = os.O_PATH | os.O_CLOEXEC
_INNER_TMP = "/tmp"  # noqa: S108  # where a private temporary directory is shown in another root
_PROC = "/proc"
_DEVICE = FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV  # a shell's `>` truncates


class ServedView:
    """What one run is shown by its supervisor.

    Arguments:
        policy, plan, context: of the run; the plan has a `served_view`.

    Attributes:
        root: the folder that is the root, or None for the host's.
        binds: what is mounted where; complete once the run is `confine`d.
        writable: paths inside below which attributes may change.
        run_branch: the copy-on-write branch, or None.
        shows_proc: the host's /proc is mounted in another root.

    Raises:
        PolicyError: a folder that must be there is not, with its field.

    """

    def __init__(self, policy: Policy, plan: Plan, context: Context) -> None:
        view = plan.served_view
        assert view is not None  # noqa: S101  # why we are here
        self._view = view
        self.root = view.root
        if view.root is not None and not os.path.isdir(view.root):
            raise PolicyError([Problem("filesystem.chroot", view.root, "is no directory", "make it, or name another")])
        check_mounts(list(view.binds), view.root)
        _check(policy, plan)
        self.shows_proc = view.shows_proc and self.root is not None and os.path.isdir(self.root + _PROC)
        own = device_nodes(self.root) if self.root is not None else []
        # Where all of the root is a branch everything may be written, and of a device no copy is made.
        devices = own if view.branch == view.root else []
        own = [*own, _PROC] if self.shows_proc else own
        self._rules = [*view.rules, *_inherited(own, view.rules)]
        self._rules += [(path, _DEVICE & plan.handled_fs, False) for path in devices]
        binds = [*[(path, path, True) for path in own], *view.binds]
        self.binds = [Bind(os.fsencode(inside), os.fsencode(host)) for host, inside, _ in binds]
        self.writable = [os.fsencode(path) for path, access, _ in view.rules if access & FS_WRITE_FILE]
        self._held: list[int] = []
        self.run_branch = RunBranch(policy, plan, context) if view.branch is not None else None

    @property
    def branches(self) -> Sequence[Branch]:
        """The branch, if there is one."""
        return () if self.run_branch is None else (self.run_branch.branch,)

    def confine(self, request: SpawnRequest, plan: Plan, rules: PathRules, scratch: str) -> PathRules:
        """Let the child start in its directory inside, and return `rules` with those of the view.

        Arguments:
            request: of the launch.
            plan: of the same run.
            rules: the others, made on the host.
            scratch: the private temporary directory on the host, or "".

        Raises:
            PolicyError: something that is granted is not there.

        """
        inside = list(self._rules)
        if scratch and self.root is None:
            self.writable.append(os.fsencode(scratch))
        elif scratch:
            self.binds.append(Bind(os.fsencode(_INNER_TMP), os.fsencode(scratch)))
            self.writable.append(os.fsencode(_INNER_TMP))
            inside.append((_INNER_TMP, plan.handled_fs & ~NEVER, True))
        for path, access, required in inside:
            field = "filesystem.write" if access & FS_WRITE_FILE else "filesystem.read"
            found = self._find(path, field, required=required)
            if found is not None:
                rules = rules.with_rule(found, access)
        for branch in self.branches:
            # Programs of the branch are executed by an fd, and that asks for the right where they lie.
            rules = rules.with_rule(os.fsencode(branch.upper), READ & plan.handled_fs | OPTIONAL)
        request.cwd = self._find(plan.cwd, "program.cwd", required=True)
        return rules

    def _find(self, path: str, field: str, *, required: bool) -> bytes | None:
        """Return a path, good as long as this is open, of what `path` leads to inside."""
        hosts = {bind.at: bind.host for bind in self.binds}
        opened: list[int] = []

        def mounted(at: bytes) -> int | None:
            if at not in hosts:
                return None
            opened.append(os.open(hosts[at], _PATH_ONLY))
            return opened[-1]

        start = os.open(self.root or "/", _PATH_ONLY)
        try:
            found = look_up(start, mounted, os.fsencode(path))
        except OSError as error:
            if required or error.errno not in (ENOENT, ENOTDIR):
                raise missing_path(SyscallError("open", error.errno or ENOENT, path), field) from error
            return None
        finally:
            for fd in (start, *opened):
                os.close(fd)
        self._held.append(found)
        return b"/proc/self/fd/%d" % found

    def release(self) -> None:
        """Close what was held for the launch."""
        while self._held:
            os.close(self._held.pop())


def _inherited(paths: Sequence[str], rules: Sequence[tuple[str, int, bool]]) -> Iterator[tuple[str, int, bool]]:
    """Yield what the grants around `paths`, which lie elsewhere on the host, give them."""
    for path in paths:
        for rule, access, _ in rules:
            if path != rule and is_below(path, rule):
                yield path, access & READ if path == _PROC else access, False


def _check(policy: Policy, plan: Plan) -> None:
    """Refuse what only namespaces can show.

    A read-only mount of what another grant lets be written: Landlock adds grants up, it takes none away. A mount of
    what lies in the branch: it would show the real files. Sockets outside: the kernel looks for them by its own paths.
    """
    view = plan.served_view
    assert view is not None  # noqa: S101  # as above
    real = [os.path.realpath(path).rstrip("/") + "/" for path in writable_folders(plan)]
    branch = None if view.branch is None else os.path.realpath(view.branch).rstrip("/") + "/"
    for host, inside, only in view.binds:
        source = os.path.realpath(host) + "/"
        if only and any(source.startswith(path) for path in real):
            text = f"is writable by another grant; read-only at {inside} it can be with namespaces alone"
            raise PolicyError([Problem("filesystem.mount", host, text, "allow namespaces, or take the grant out")])
        if branch is not None and source.startswith(branch):
            raise PolicyError([Problem("filesystem.mount", host, "lies in the branch", "mount what lies elsewhere")])
    if policy.unix_allow:
        text = "cannot be reached where the supervisor shows a root, mounts or a branch"
        raise PolicyError([Problem("network.unix", policy.unix_allow[0], text, "allow namespaces, or leave it out")])
