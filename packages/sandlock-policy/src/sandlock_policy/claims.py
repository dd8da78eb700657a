"""Paths inside that two options want to decide about, where one of them would silently win."""

from __future__ import annotations

from sandlock_policy.errors import Problem
from sandlock_policy.paths import is_below, normalise
from sandlock_policy.view import HOSTNAME, HOSTS, MEMINFO, PROCESSOR_FILES, RESOLVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_policy.model import Policy

__all__ = ["find_claims"]


def find_claims(policy: Policy, *, named: bool, root: str | None, workdir: str | None) -> Iterator[Problem]:
    """Yield a problem for each path that an option names and that another one, or sandlock for it, puts a file at.

    Arguments:
        policy: whose options they are.
        named: hosts are allowed by name, so that the program is told their addresses.
        root: of the program, absolute on the host, or None.
        workdir: likewise.

    """
    if not (policy.fs_mount or policy.fs_mount_ro or policy.http_inject_ca):
        return
    taken = _generated(policy, named=named)
    mounts = (*policy.fs_mount, *policy.fs_mount_ro)
    if workdir is not None:
        taken[workdir[len((root or "").rstrip("/")) :] or "/"] = "workdir, whose branch is there"
    for index, path in enumerate(mounts):
        if path in taken:
            yield _claimed(f"filesystem.mount[{index}]", path, taken[path], "leave one of them out")
    taken |= dict.fromkeys(mounts, "fs_mount, and what the certificate is added to is the file below it")
    for index, written in enumerate(policy.http_inject_ca):
        path = normalise(written.removeprefix("-"))
        by = "the kernel, and is no bundle" if is_below(path, "/proc") else taken.get(path)
        if by is not None:
            yield _claimed(f"http.inject_ca[{index}]", written, by, "name a bundle of certificates in PEM")


def _generated(policy: Policy, *, named: bool) -> dict[str, str]:
    """Return the files that sandlock writes for other options, and for which."""
    found: dict[str, str] = {}
    if named:
        found |= dict.fromkeys((HOSTS, RESOLVER), "rules that allow hosts by name, which tell their addresses there")
    if policy.name is not None:
        found[HOSTNAME] = "name"
    if policy.num_cpus is not None:
        found |= dict.fromkeys(PROCESSOR_FILES, "num_cpus")
    if policy.max_memory is not None:
        found[MEMINFO] = "max_memory"
    return found


def _claimed(field: str, path: str, by: str, remedy: str) -> Problem:
    return Problem(field, path, f"{path} is taken by {by}", remedy)
