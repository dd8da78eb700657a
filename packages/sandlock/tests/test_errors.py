"""One tree of exceptions; each of them, and every typed result, survives pickling."""

from __future__ import annotations

import pickle

import pytest

import sandlock
from sandlock_checkpoint import InjectionError
from sandlock_cow.errors import Conflict

TREE = {
    "SandlockError": ("PolicyError", "LayerMissingError", "ProfileError", "SandboxError"),
    "SandboxError": (
        "SandboxBusyError", "NotRunningError", "CommandNotFoundError", "CommandNotRunnableError", "ChildError",
        "ForkError", "ConfinementError", "BranchError", "CheckpointError",
    ),
    "ConfinementError": ("LandlockUnavailableError", "SeccompError", "NotifError"),
    "BranchError": ("BranchConflictError", "BranchQuotaError", "BranchBusyError", "BranchStorageError",
                    "BranchLateExecutionError"),
    "CheckpointError": ("CaptureError", "ImageError", "RestoreError"),
}  # fmt: skip

EXAMPLES: list[sandlock.SandlockError | sandlock.SyscallError] = [
    sandlock.PolicyError([sandlock.Problem("limits.memory", "x", "no size", "write 1G", 0)]),
    sandlock.LayerMissingError("landlock", ["fs_access"], "no landlock", "boot with it"),
    sandlock.SandboxBusyError("busy"),
    sandlock.CommandNotFoundError("nothing", "no such program"),
    sandlock.CommandNotRunnableError(13, "/etc/passwd", "not executable"),
    sandlock.ChildError(sandlock.Result(success=False, exit_code=3, stderr=b"why")),
    sandlock.ForkError("two clones failed", (1, 4)),
    sandlock.ConfinementError("mount", "refused", 1, "ask for less"),
    sandlock.LandlockUnavailableError("landlock", "too old", 95),
    sandlock.NotifError("listener", "taken", 16, "supervisor=False"),
    sandlock.BranchConflictError((Conflict(("a", "changed")),)),
    sandlock.BranchQuotaError(10, 5, 12),
    sandlock.BranchStorageError("/x", "not ours"),
    sandlock.CaptureError(7, "is traced", (sandlock.Unsupported("fd 3", "tty", "belongs to the host"),)),
    sandlock.ImageError("pages", "mappings[3]", "too long"),
    InjectionError(7, "getpid", "the thread did not come back"),
    sandlock.SyscallError("openat", 2, "/x"),
]


@pytest.mark.parametrize(("base", "names"), TREE.items())
def test_the_tree_is_the_one_of_the_page(base: str, names: tuple[str, ...]) -> None:
    for name in names:
        assert issubclass(getattr(sandlock, name), getattr(sandlock, base)), name


def test_every_public_exception_is_in_the_tree() -> None:
    for name in sandlock.__all__:
        value = getattr(sandlock, name)
        if isinstance(value, type) and issubclass(value, BaseException) and value is not sandlock.SyscallError:
            assert issubclass(value, sandlock.SandlockError), name


def test_they_are_what_the_standard_library_calls_them_too() -> None:
    assert issubclass(sandlock.PolicyError, ValueError)
    assert issubclass(sandlock.SandboxError, RuntimeError)
    assert issubclass(sandlock.CommandNotFoundError, FileNotFoundError)
    assert issubclass(sandlock.CommandNotRunnableError, PermissionError)
    assert issubclass(sandlock.SyscallError, OSError)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_survives_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


@pytest.mark.needs("landlock", level=1)
def test_a_result_with_everything_in_it_survives_pickling() -> None:
    result = sandlock.Sandbox(sandlock.preset("default"), max_processes=20).run(["sh", "-c", "echo out; exit 3"])
    copy = pickle.loads(pickle.dumps(result))  # noqa: S301 - our own
    assert copy == result
    assert (copy.stdout, copy.exit_code) == (b"out\n", 3)
    assert copy.protections
    with pytest.raises(sandlock.ChildError) as raised:
        copy.check()
    assert pickle.loads(pickle.dumps(raised.value)).result == result  # noqa: S301 - our own
