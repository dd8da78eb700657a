"""What `import sandlock` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sandlock


@pytest.mark.parametrize("name", sandlock.__all__)
def test_every_public_name_is_there_and_stays_the_same(name: str) -> None:
    value = getattr(sandlock, name)
    assert value is getattr(sandlock, name)
    assert name in dir(sandlock)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sandbx'"):
        sandlock.Sandbx  # type: ignore[attr-defined]  # noqa: B018 - the access is the test


def test_a_star_import_gives_the_public_names() -> None:
    space: dict[str, object] = {}
    exec("from sandlock import *", space)  # noqa: S102 - there is no other way to write it in a function
    assert set(sandlock.__all__) <= set(space)


def test_importing_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import sandlock; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sandlock"]


def test_a_name_loads_its_own_package_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import sandlock; sandlock.Policy; sandlock.preset\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sandlock_policy" in loaded
    assert loaded.isdisjoint({"sandlock_runtime", "sandlock_sys", "sandlock_cli", "typing", "dataclasses", "asyncio"})


def test_a_branch_action_is_what_the_fields_take() -> None:
    assert [action.value for action in sandlock.BranchAction] == ["commit", "abort", "keep", "defer"]
    for action in sandlock.BranchAction:
        policy = sandlock.Policy(workdir="/srv", on_exit=action, on_error=action)
        assert policy == sandlock.Policy(workdir="/srv", on_exit=action.value, on_error=action.value)
        assert sandlock.Policy.from_toml(policy.to_toml()) == policy
        assert type(policy.on_exit) is str


def test_names_are_those_of_their_packages() -> None:
    import sandlock_checkpoint
    import sandlock_cow
    from sandlock_notif.handlers import user

    assert sandlock.Change is sandlock_cow.Change
    assert sandlock.renames is sandlock_cow.renames
    assert sandlock.Handler is user.Handler
    assert sandlock.capture is sandlock_checkpoint.capture
    assert sandlock.RestoreError is sandlock_checkpoint.RestoreError
    assert issubclass(sandlock.BranchConflictError, sandlock.BranchError)
    assert issubclass(sandlock.ImageError, sandlock.CheckpointError)


@pytest.mark.needs("landlock", level=1)
def test_a_handler_from_here_is_asked() -> None:
    class Refuse(sandlock.Handler):
        def handle(self, ctx: sandlock.HandlerCtx) -> sandlock.NotifAction:
            return sandlock.NotifAction.errno(13)

    assert sandlock.Sandbox(sandlock.preset("default")).run(["uname"]).stdout == b"Linux\n"
    refused = sandlock.Sandbox(sandlock.preset("default"), handlers=[("uname", Refuse())]).run(["uname"])
    assert refused.stdout == b""
    assert b"Permission denied" in refused.stderr


def test_errors_are_one_family() -> None:
    for error in (sandlock.PolicyError, sandlock.SandboxError, sandlock.LayerMissingError, sandlock.ProfileError):
        assert issubclass(error, sandlock.SandlockError)
    assert issubclass(sandlock.CommandNotFoundError, FileNotFoundError)
    assert issubclass(sandlock.PolicyError, ValueError)
    assert issubclass(sandlock.SyscallError, OSError)


def test_ports_of_specifications() -> None:
    assert sandlock.parse_ports([443, "80,8000-8002"]) == [80, 443, 8000, 8001, 8002]


def test_the_lowest_abi_is_that_of_the_policy() -> None:
    assert sandlock.min_landlock_abi() == 6
    assert sandlock.min_landlock_abi(sandlock.Policy(allow_degraded=["scope_signal"])) == 5
    bare = ["fs_access", "fs_refer", "fs_truncate", "fs_ioctl_dev", "scope_signal", "scope_abstract", "net_tcp"]
    assert sandlock.min_landlock_abi(sandlock.Policy(disable=bare)) == 0


def test_the_abi_and_the_features_are_those_of_this_kernel() -> None:
    found = sandlock.probe()
    assert isinstance(found, sandlock.HostFeatures)
    assert found.landlock_abi <= sandlock.landlock_abi_version()


@pytest.mark.needs("landlock", level=6)
def test_the_readme_example_runs() -> None:
    with sandlock.Sandbox(sandlock.preset("default")) as sandbox:
        result = sandbox.run(["sh", "-c", "echo hello; cat /etc/shadow"])
    assert result.stdout == b"hello\n"
    assert not result.success
    assert result.reason == sandlock.Reason.EXITED
    with pytest.raises(sandlock.ChildError):
        result.check()


def test_the_types_are_those_of_the_real_classes() -> None:
    # mypy reads this: it must see classes and signatures, not `object`.
    policy: sandlock.Policy = sandlock.preset("none")
    paths: tuple[str, ...] = policy.fs_readable
    assert paths == ()
    sandbox: sandlock.Sandbox = sandlock.Sandbox(policy, timeout=3)
    assert sandbox.policy.timeout == 3
