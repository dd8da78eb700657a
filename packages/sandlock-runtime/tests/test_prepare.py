"""The plan of the last run serves again, and only as long as nothing that it depends on has changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandlock_policy import preset
from sandlock_policy.features import features_of_abi
from sandlock_runtime import Sandbox
from sandlock_runtime.features import host_features, override
from sandlock_runtime.prepare import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from sandlock_policy import Plan, Policy

READS = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]


def plan_of(policy: Policy, command: str = "true") -> Plan:
    return prepare(policy, [command], host_features())[2]


def test_the_same_run_has_the_same_plan() -> None:
    policy = Sandbox(fs_readable=READS).policy
    first = plan_of(policy)
    assert plan_of(policy) is first
    assert plan_of(policy.replace(fs_readable=(*policy.fs_readable, "/etc"))) is not first
    assert plan_of(policy) is first


def test_a_changed_environment_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANDLOCK_TEST", "one")
    box = Sandbox(fs_readable=[*READS, "${SANDLOCK_PLACE}"], clean_env=False)
    monkeypatch.setenv("SANDLOCK_PLACE", str(tmp_path))
    (tmp_path / "file").write_text("granted\n")
    command = ["sh", "-c", f"echo $SANDLOCK_TEST; cat {tmp_path}/file"]
    assert box.run(command).check().stdout == b"one\ngranted\n"
    os.environ["SANDLOCK_TEST"] = "two"
    assert box.run(command).check().stdout == b"two\ngranted\n"
    monkeypatch.setenv("SANDLOCK_PLACE", "/usr")
    assert box.run(command).stdout == b"two\n"


def test_another_directory_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    box = Sandbox(preset("default"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    monkeypatch.chdir(tmp_path / "one")
    assert box.run(["cat", "file"]).check().stdout == b"one"
    monkeypatch.chdir(tmp_path / "two")
    assert box.run(["cat", "file"]).check().stdout == b"two"
    assert box.run(["cat", "../one/file"]).stdout == b""


def test_a_home_that_became_a_link_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FS-31: working in what is the home directory by another name grants nothing of it."""
    real, home = tmp_path / "real", tmp_path / "home"
    real.mkdir()
    home.mkdir()
    (real / "key").write_text("secret")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(real)
    box = Sandbox(preset("default"))
    assert box.run(["cat", "key"]).check().stdout == b"secret", "control: elsewhere the current directory is work"
    home.rmdir()
    home.symlink_to(real)
    assert box.run(["cat", "key"]).stdout == b""


def test_a_program_that_appears_in_the_path_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    late, early = tmp_path / "late", tmp_path / "early"
    for folder in (late, early):
        folder.mkdir()
    monkeypatch.setenv("PATH", f"{early}:{late}:/usr/bin:/bin")
    box = Sandbox(fs_readable=[*READS, str(tmp_path)])
    for folder in (late, early):
        (folder / "tool").write_text(f"#!/bin/sh\necho {folder.name}\n")
        (folder / "tool").chmod(0o755)
        assert box.run(["tool"]).check().stdout.decode().strip() == folder.name


def test_other_features_of_the_host_make_another_plan() -> None:
    policy = Sandbox(fs_readable=READS).policy
    first = plan_of(policy)
    with override(features_of_abi(6)):
        assert plan_of(policy) is not first
    assert plan_of(policy) is not plan_of(policy.replace(cwd="/"))


def test_many_policies_are_not_kept_for_ever() -> None:
    from sandlock_runtime import prepare as module

    for number in range(100):
        plan_of(Sandbox(fs_readable=READS, env={"NUMBER": str(number)}).policy)
    assert len(module._known) <= module._KEPT
    assert len(module._parts) <= module._KEPT
