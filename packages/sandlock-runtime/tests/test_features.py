"""What the host offers: asked once, narrowed by `override` and by the environment, never widened."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from runtime_lab import box, in_child

from sandlock_policy.data.landlock import FS_RIGHTS, NET_RIGHTS, SCOPES
from sandlock_policy.features import HostFeatures, features_of_abi
from sandlock_runtime import features, host_features, override
from sandlock_sys import landlock
from sandlock_sys.errors import SyscallError
from sandlock_testkit.features import level

pytestmark = pytest.mark.usefixtures("leaks")

EVERYTHING = HostFeatures(99, (1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1, True, True, True, ("name",))


def masks(found: HostFeatures) -> tuple[int, int, int, int]:
    return found.landlock_abi, found.landlock_fs, found.landlock_net, found.landlock_scopes


def test_what_is_found_is_what_the_kernel_says() -> None:
    found = host_features()
    assert found.landlock_abi == level("landlock")
    assert masks(found)[1:] == masks(features_of_abi(level("landlock")))[1:]
    assert found is host_features()
    assert "num_cpus" in found.served
    if os.geteuid() != 0:
        assert not found.privileged


def test_override_narrows() -> None:
    narrow = HostFeatures(1, 1, 0, 0, False, False)
    with override(narrow):
        assert masks(host_features()) == (1, 1, 0, 0)
        assert host_features().mount_namespace is False
    assert host_features().landlock_abi == level("landlock")


def test_override_never_widens() -> None:
    real = host_features()
    with override(EVERYTHING):
        assert masks(host_features()) == masks(real)
        assert host_features().privileged == real.privileged
        assert host_features().served == ("name",)  # those that the pretended host names


def test_override_nests_and_ends_with_its_block() -> None:
    real = host_features()

    def fail() -> None:
        with override(features_of_abi(3)):
            with override(EVERYTHING):
                assert masks(host_features()) == masks(features_of_abi(min(3, real.landlock_abi)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert host_features() == real


def test_a_refusal_of_namespaces_is_remembered_and_changes_nothing_else() -> None:
    def learn() -> tuple[HostFeatures, HostFeatures]:
        before = host_features()
        without = features.namespace_refused()
        assert without is host_features()
        return before, without

    before, without = in_child(learn)
    assert (without.user_namespace, without.mount_namespace) == (False, False)
    assert masks(without) == masks(before) and without.privileged == before.privileged


def test_a_refusal_under_override_ends_with_it() -> None:
    real = host_features()
    with override(features_of_abi(1)):
        features.namespace_refused()
        assert host_features().mount_namespace is False and host_features().landlock_abi <= 1
    assert host_features() == real


@pytest.mark.needs("landlock", level=3)
@pytest.mark.parametrize(
    ("said", "abi"), [("0", 0), ("1", 1), ("2", 2), ("99", None), ("-1", None), ("x", None), ("", None)]
)
def test_the_environment_may_force_a_lower_abi(said: str, abi: int | None) -> None:
    code = "from sandlock_runtime import host_features as f\nprint(f().landlock_abi, f().landlock_fs)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SANDLOCK_LANDLOCK_ABI": said}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    expected = landlock.abi_version() if abi is None else abi
    assert done.stdout.split() == [str(expected), str(features_of_abi(expected).landlock_fs)]


@pytest.mark.needs("landlock", level=6)
@pytest.mark.parametrize(
    ("kind", "missing"),
    [("fs", FS_RIGHTS["truncate"][0]), ("net", NET_RIGHTS["bind_tcp"][0]), ("scope", SCOPES["signal"][0])],
)
def test_each_right_is_tried_where_the_abi_promises_too_much(
    kind: str, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = landlock.create_ruleset

    def backport(fs: int, net: int, scopes: int) -> int:
        if {"fs": fs, "net": net, "scope": scopes}[kind] & missing:
            raise SyscallError("landlock_create_ruleset", 22)
        return real(fs, net, scopes)

    monkeypatch.setattr(landlock, "create_ruleset", backport)
    found = features._ask()
    _, fs, net, scopes = masks(features_of_abi(landlock.abi_version()))
    expected = {"fs": fs, "net": net, "scope": scopes}
    expected[kind] &= ~missing
    assert {"fs": found.landlock_fs, "net": found.landlock_net, "scope": found.landlock_scopes} == expected


def test_a_launch_asks_the_narrowed_host() -> None:
    with override(features_of_abi(4)):
        sandbox = box(allow_degraded=["fs_ioctl_dev", "scope_signal", "scope_abstract"], namespaces="off")
        states = {row.name: row.state for row in sandbox.run(["true"]).protections}
    assert (states["scope_signal"], states["tree_kill"], states["fs_truncate"]) == ("degraded", "degraded", "active")
    assert {row.state for row in box().run(["true"]).protections} == {"active"}
