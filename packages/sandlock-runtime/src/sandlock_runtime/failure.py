"""Words for what went wrong at a launch: which layer or which path, and what to do about it."""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, EBUSY, EMFILE, ENAMETOOLONG, ENFILE, ENOENT, ENOEXEC, ENOTDIR, EPERM

from sandlock_policy.data.landlock import FS_WRITE_FILE
from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.paths import is_below
from sandlock_runtime.errors import (
    CommandNotFoundError,
    CommandNotRunnableError,
    ConfinementError,
    LandlockUnavailableError,
    NotifError,
    SandboxError,
    SeccompError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy import Plan
    from sandlock_runtime.prepare import Program
    from sandlock_sys.errors import SyscallError
    from sandlock_sys.spawn import SpawnError

__all__ = ["explain_failure", "granted_by", "missing_path"]

_REMEDIES = {
    "guard-exec": "the guard program is part of sandlock-sys and must be executable: reinstall it; no `noexec` mount",
    "guard-landlock": "`sandlock check` tells what this kernel offers",
    "stdio": "DEVNULL needs /dev/null: a sandbox around this one must let it be written (-w /dev/null); another root "
    "needs an empty file dev/null as a place for it",
    "landlock": "`sandlock check` tells what this kernel offers; a sandbox may be nested at most 7 times",
    "listener": "a sandbox around this one that has a supervisor keeps its processes to itself: use supervisor=False "
    "(--no-supervisor) for the inner one",
    "seccomp": "an outer filter may forbid it: `sandlock check` tells",
    "namespace": "allow unprivileged user namespaces on this host, or use namespaces='auto' (--namespaces auto)",
    "id-map": "allow unprivileged user namespaces on this host, or use namespaces='auto' (--namespaces auto)",
    "branch": "no overlay can be mounted over this folder with the changes where they would lie: keep these on another "
    "file system with fs_storage (--fs-storage), such as ext4; before Linux 6.6 a tmpfs cannot hold them",
    "cwd": "name an existing directory with cwd (--cwd)",
    "affinity": "name cores that this host has, and that you may use, with cpu_cores (--cpu-cores)",
    "limit": "a hard limit can only be lowered: see `ulimit -H -a`",
}


_SCARCE = {
    EMFILE: "let this process open more files: `ulimit -n`",
    ENFILE: "this host has too many open files: sysctl fs.file-max",
    EAGAIN: "let your user have more processes: `ulimit -u`, or TasksMax of its systemd slice",
}


def granted_by(plan: Plan, path: str) -> str:
    """Return the field that grants `path`."""
    writes = any(access & FS_WRITE_FILE for granted, access, _ in plan.fs_rules if granted == path)
    return "filesystem.write" if writes else "filesystem.read"


def missing_path(error: SyscallError, field: str) -> PolicyError:
    """Return the error for a path that `field` names and that is not there."""
    reason = {ENOENT: "does not exist", EACCES: "cannot be reached by you"}.get(error.errno or 0, error.strerror)
    return PolicyError(
        [Problem(field, error.detail, f"{error.detail!r} {reason}",
                 f"create it, take the grant out, or write -{error.detail} to grant it only where it exists")]
    )  # fmt: skip


def explain_failure(error: SpawnError, program: Program, plan: Plan) -> SandboxError:
    """Return the exception that tells the user what `error` means."""
    if error.step == "exec":
        return _exec_failure(error, program, plan)
    if error.step == "seccomp" and error.errno == EBUSY:  # seccomp(2): another filter of the process has a listener
        return NotifError("listener", str(error), error.errno, _REMEDIES["listener"])
    kind = {
        "landlock": LandlockUnavailableError,
        "guard-landlock": LandlockUnavailableError,
        "seccomp": SeccompError,
    }.get(error.step, ConfinementError)
    remedy = _SCARCE.get(error.errno or 0) or _REMEDIES.get(error.step, "")
    return kind(error.step, str(error), error.errno, remedy)


def _exec_failure(error: SpawnError, program: Program, plan: Plan) -> SandboxError:
    name = os.fsdecode(program.argv[0])
    path = program.path
    if error.errno == ENAMETOOLONG:
        return CommandNotRunnableError(error.errno, name, os.strerror(error.errno))
    if not path:
        root = plan.view.root if plan.view is not None else None
        tried = (root or "") + os.path.join(plan.cwd, name)
        if "/" in name and os.path.isdir(tried):
            return CommandNotRunnableError(EACCES, name, "it is a directory")
        if "/" in name and os.path.exists(tried):
            return CommandNotRunnableError(EACCES, name, "it is not executable: chmod +x")
        where = "" if "/" in name else f" in PATH={plan.env.get('PATH', '')}"
        return CommandNotFoundError(name, f"there is no such program{where}")
    if error.errno in (ENOENT, ENOTDIR):
        return CommandNotRunnableError(error.errno, path, _missing_interpreter(path))
    if error.errno == ENOEXEC:
        return CommandNotRunnableError(
            error.errno,
            path,
            "it is neither a program of this machine nor a script with a #! "
            "line; write one (#!/bin/sh), or name the interpreter before it",
        )
    if error.errno in (EACCES, EPERM) and not _is_granted(path, plan):
        folder = os.path.dirname(os.path.realpath(path))
        return CommandNotRunnableError(
            error.errno,
            path,
            f"the policy does not grant it: add fs_readable={folder!r} (--fs-read {_word(folder)}), "
            "or start from --preset default, which grants programs and their libraries",
        )
    hidden = [file for file in _interpreters(path) if not _is_granted(file, plan)]
    if error.errno == EACCES and hidden:
        reason = (
            f"what runs it, {hidden[0]}, is outside every grant: "
            f"add fs_readable={hidden[0]!r} (--fs-read {_word(hidden[0])})"
        )
        return CommandNotRunnableError(error.errno, path, reason)
    return CommandNotRunnableError(
        error.errno, path,
        "the kernel refused it; its interpreter or its loader may be outside every grant (--fs-read)"
        if error.errno == EACCES else os.strerror(error.errno),
    )  # fmt: skip


def _word(path: str) -> str:
    """Return a path as one word of a command line: a program's author chooses its loader, and where a link leads."""
    from shlex import quote  # lazy, as the next

    return quote(path)


def _interpreters(path: str) -> tuple[str, ...]:
    from sandlock_runtime.interpreters import interpreters_of  # lazy: most failures are others

    return interpreters_of(path)


def _missing_interpreter(path: str) -> str:
    """Say which file that runs `path` is not there, and what to do."""
    for file in _interpreters(path):
        if file.endswith("\r"):
            return (
                "its first line ends in a carriage return, which the kernel takes for a part of the interpreter's "
                "name: convert it (sed -i 's/\\r$//')"
            )
        if not os.path.exists(file):
            return f"its interpreter {file} does not exist; install it, or correct the first line of the script"
    return "its interpreter (first line, or loader) does not exist inside"


def _is_granted(path: str, plan: Plan) -> bool:
    real = os.path.realpath(path)
    for rule, access, _ in plan.fs_rules:
        base = os.path.realpath(rule)
        if access & 1 and is_below(real, base):  # LANDLOCK_ACCESS_FS_EXECUTE
            return True
    return not plan.handled_fs
