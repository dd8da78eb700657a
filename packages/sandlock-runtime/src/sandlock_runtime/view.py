"""From a plan's view to what the launch is asked to show: paths that exist, generated content, rights inside."""

from __future__ import annotations

import os
from stat import S_IFREG, S_ISFIFO, S_ISREG

from sandlock_policy.data.landlock import FS_IOCTL_DEV, NEVER
from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.view import LOADAVG, MEMINFO, STAT
from sandlock_runtime.proc_mounts import ProcMounts
from sandlock_sys import landlock
from sandlock_sys.spawn import HOST_CLOCK, LIVE_HOST, LIVE_LOAD, LIVE_STAT, NO_DEVICES, NULL_DEVICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_policy import Plan
    from sandlock_policy.view import View
    from sandlock_runtime.generated import Generated
    from sandlock_sys.spawn import SpawnRequest

__all__ = ["check_mounts", "device_nodes", "keeps_fds", "show_view"]

_LIVE = {os.fsencode(LOADAVG): LIVE_LOAD, os.fsencode(STAT): LIVE_STAT}
_MEMINFO = os.fsencode(MEMINFO)
_NO_DEVICES = ("/dev/pts", "/dev/pts/", "/dev/shm", "/dev/shm/")  # noqa: S108  # compared with the first nine letters
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")


def show_view(request: SpawnRequest, view: View, plan: Plan, scratch: str, files: Generated) -> None:
    """Put `view` into the request.

    Arguments:
        request: of the launch; its `ruleset` gets the rules inside once all is mounted.
        view: what is to be shown.
        plan: of the same run.
        scratch: the private temporary directory on the host, or "". Another root shows it as /tmp.
        files: makes the content of generated files.

    Raises:
        PolicyError: a folder that must be there is not, with its field.

    """
    root = view.root
    if root is not None and not os.path.isdir(root):
        raise PolicyError([Problem("filesystem.chroot", root, "is no directory", "make it, or name another")])
    only = NO_DEVICES if plan.devices is not None else True
    binds = [(host, inside, read_only and only) for host, inside, read_only in view.binds]
    rules = list(view.rules)
    if scratch and root is not None:
        binds.append((scratch, "/tmp", False))  # noqa: S108  # a path inside, over which the private one is laid
        rules.append(("/tmp", plan.handled_fs & ~NEVER, True))  # noqa: S108  # as above
    check_mounts(binds, root)
    if root is not None:
        # The host's nodes over the root's names, or a file that somebody put there would be opened as the null device.
        # Read-only: a device is written through such a mount all the same, and its mode and owner stay.
        binds = [(node, node, True) for node in device_nodes(root)] + binds
    request.root = os.fsencode(root) if root is not None else None
    request.binds = [(os.fsencode(host), os.fsencode(inside), only) for host, inside, only in binds]
    request.hostname = os.fsencode(view.hostname) if view.hostname is not None else None
    # Where there is no /proc nothing can be mounted over it, and nothing of others is to be seen (`passed.as_passed`).
    request.pid_namespace = view.pid_namespace and os.path.isdir((root or "") + "/proc")
    request.network_namespace = view.network_namespace and request.pid_namespace
    request.overlays = files.overlays()
    if view.shows_proc and request.pid_namespace:
        request.live = _LIVE
    elif request.pid_namespace:
        request.flags |= HOST_CLOCK  # the machine is what it is without this namespace, but for other processes
    if any(path == _MEMINFO for path, _ in request.overlays):
        request.live = {**request.live, _MEMINFO: LIVE_HOST}
    if plan.handled_fs:
        request.rules = [
            (os.fsencode(path), access if must else access | landlock.OPTIONAL) for path, access, must in rules
        ]


def keeps_fds(plan: Plan, fds: Sequence[int]) -> bool:
    """Tell whether what runs inside can hand an fd to nobody outside, where no Unix socket of the sandbox is served.

    That takes a socket that leads outside, an io_uring, or a device whose driver passes fds on (binder).
    """
    if plan.filter.unix_sockets:
        return False
    for fd in fds:
        mode = os.fstat(fd).st_mode if fd != NULL_DEVICE else S_IFREG
        if not (S_ISREG(mode) or S_ISFIFO(mode) or os.isatty(fd)):
            return False
    if plan.view is None or not plan.handled_fs & FS_IOCTL_DEV:
        return False
    granted = [path for path, access, _ in (*plan.fs_rules, *plan.view.rules) if access & FS_IOCTL_DEV]
    return not any(_may_pass_fds(path) for path in granted)


def _may_pass_fds(path: str) -> bool:
    return path in ("/", "/dev") or (path.startswith("/dev/") and path not in _DEVICES and path[:9] not in _NO_DEVICES)


def device_nodes(root: str) -> list[str]:
    """Return the device nodes of the host that are shown in the root `root`, which has a place for them."""
    return [node for node in _DEVICES if os.path.lexists(root + node)]


def check_mounts(binds: list[tuple[str, str, int]], root: str | None) -> None:
    """Raise PolicyError for what is not there, what has no place, and what shows processes of the host."""
    problems = []
    shown = ProcMounts() if binds or root is not None else None
    elsewhere = shown.shown_elsewhere(root) if shown is not None and root is not None else None
    if elsewhere is not None:
        text = f"{root} shows the host's processes, in {elsewhere}"
        problems.append(Problem("filesystem.chroot", root or "", text, "unmount that /proc, or name another root"))
    for host, inside, _ in binds:
        processes = shown.shown_in(host) if shown is not None else None
        if processes is not None:
            text = f"{host} shows the host's processes, in {processes}"
            remedy = "mount the folders beside it, and grant /proc, which shows the sandbox's own"
            problems.append(Problem("filesystem.mount", host, text, remedy))
        if not os.path.lexists(host):
            problems.append(Problem("filesystem.mount", host, "does not exist on the host", "name what is there"))
        around = max(((to, source) for source, to, _ in binds if inside.startswith(f"{to}/")), default=None)
        place = around[1] + inside[len(around[0]) :] if around else (root or "") + inside
        if not os.path.lexists(place):
            where = f" in {around[1]}, which is mounted around it" if around else " in the root" if root else ""
            text = f"does not exist{where}, and a mount needs a place"
            problems.append(Problem("filesystem.mount", inside, text, "make an empty folder or file there"))
    if problems:
        raise PolicyError(problems)
