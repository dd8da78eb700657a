"""The snapshot of a branch may not hold what the restorer's policy would never have let the program write.

A branch lets a program change all below its folder but what is denied. A snapshot is put there by the supervisor, and
committed like everything else in the branch, so that what an image says of a denied path would come to pass.
"""

from __future__ import annotations

import os
from stat import S_ISDIR
from typing import TYPE_CHECKING

from sandlock_checkpoint import RestoreError
from sandlock_policy.errors import PolicyError, Problem, RuleError
from sandlock_policy.paths import expand_path
from sandlock_runtime.prepare import make_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_policy import Policy

__all__ = ["denied_paths", "refuse_denied"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "overlay.opaque"  # an attribute of a folder that hides all of the one below it


def denied_paths(policy: Policy) -> tuple[str, ...]:
    """Return the paths on the host that `policy` denies: as written, without links, and below its root."""
    context, _ = make_context(policy, None)
    found: list[str] = []
    for index, written in enumerate(policy.fs_denied):
        try:
            path = expand_path(written.removeprefix("-"), cwd=context.cwd, home=context.home, variables=context.env)
            root = "" if policy.chroot is None else expand_path(
                policy.chroot, cwd=context.cwd, home=context.home, variables=context.env
            )  # fmt: skip
        except RuleError as fault:
            raise PolicyError([Problem(f"filesystem.deny[{index}]", written, str(fault), fault.remedy)]) from fault
        inside = [path, *([root.rstrip("/") + path] if root else [])]
        found += [one for name in inside for one in (os.path.normpath(name), os.path.realpath(name))]
    return tuple(dict.fromkeys(found))


def refuse_denied(upper: int, lower: str, denied: Sequence[str]) -> None:
    """Raise RestoreError when the snapshot in the folder `upper` changes one of the paths `denied` below `lower`."""
    for path in denied:
        below = os.path.relpath(path, lower)
        if below.partition("/")[0] == "..":
            continue
        if _changes(upper, [] if below == "." else below.split("/"), hidden=os.path.lexists(path)):
            reason = f"the snapshot of the branch in the image changes {path}, which the policy denies"
            raise RestoreError("branch", reason)


def _changes(upper: int, names: Sequence[str], *, hidden: bool) -> bool:
    """Tell whether the path `names` below `upper` is another one than in the folder that is covered.

    Arguments:
        upper: fd of the branch's own folder.
        names: components of the path; none for all of the branch.
        hidden: whether something is there that a folder without a view of what it covers would take away.

    """
    folder = os.dup(upper)
    try:
        for name in names:
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if not S_ISDIR(found.st_mode):
                return True  # it, or a folder above it, has been replaced or removed
            inner = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
            if hidden and any(attribute.endswith(_OPAQUE) for attribute in os.listxattr(folder)):
                return True
        return bool(names) or bool(os.listdir(folder))
    finally:
        os.close(folder)
