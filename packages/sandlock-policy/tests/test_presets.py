"""Presets name what programs need, and nothing that belongs to a person or to the host's administration."""

from __future__ import annotations

import os

import pytest

from sandlock_policy import PRESET_NAMES, Context, Policy, PolicyError, preset, resolve
from sandlock_policy.data import landlock
from sandlock_policy.features import features_of_abi
from sandlock_policy.paths import is_optional, normalise

HERE = Context("/work", "/home/me", {"PATH": "/bin"}, 1000, 1000, "/usr/bin/python3")
NEW = features_of_abi(7)


def test_there_are_the_promised_presets() -> None:
    assert set(PRESET_NAMES) == {"default", "none", "python", "node", "build", "rust", "git", "agent"}


def test_a_preset_that_does_not_exist_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(PolicyError, match="did you mean 'python'"):
        preset("pyton")
    with pytest.raises(PolicyError, match="there are none, default"):
        preset("zzz")


def test_none_grants_nothing() -> None:
    assert preset("none") == Policy()


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_resolves_without_any_network_or_service(name: str) -> None:
    plan = resolve(preset(name), NEW, HERE)
    assert plan.port_rules == ()
    assert not plan.filter.tcp
    assert not plan.filter.unix_sockets
    assert plan.needs_supervisor == ()
    assert {protection.state for protection in plan.protections} == {"active"}


# What must not become readable, by what a rule below, at or above would do.
FORBIDDEN = (
    "/", "/etc", "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private", "/etc/ssh", "/etc/machine-id",
    "/proc", "/proc/self", "/proc/1", "/proc/cmdline", "/proc/kallsyms", "/proc/sys/kernel/random/boot_id",
    "/proc/uptime", "/proc/version", "/sys/class/dmi", "/sys", "/dev", "/dev/tty", "/dev/shm", "/dev/mem", "/dev/kvm",
    "/home", "/root", "/home/me", "/home/me/.ssh", "/home/me/.aws", "/home/me/.config", "/home/me/.local/share",
    "/tmp", "/var", "/var/run", "/run", "/boot", "/opt", "/srv", "/mnt", "/media", "/lost+found",
)  # fmt: skip


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_grants_nothing_that_is_private(name: str) -> None:
    plan = resolve(preset(name), NEW, HERE)
    granted = [path for path, _, _ in plan.fs_rules]
    reached = [path for path in FORBIDDEN for grant in granted if f"{path}/".startswith(f"{grant.rstrip('/')}/")]
    assert reached == []


@pytest.mark.parametrize("name", ["default", "python", "node", "git", "agent"])
def test_only_devices_without_memory_are_writable(name: str) -> None:
    plan = resolve(preset(name), NEW, HERE)
    written = [path for path, access, _ in plan.fs_rules if access & ~landlock.READ]
    assert written == ["/dev/null", "/dev/zero", "/dev/full"]
    assert plan.private_tmp


def test_the_build_preset_writes_below_the_current_directory() -> None:
    rules = {path: access for path, access, _ in resolve(preset("build"), NEW, HERE).fs_rules}
    assert rules["/work"] == NEW.landlock_fs & ~landlock.NEVER
    assert rules["/usr"] == landlock.READ


@pytest.mark.parametrize("name", ["default", "python", "node", "build", "rust"])
def test_programs_and_what_they_need_of_etc_are_readable(name: str) -> None:
    rules = {path: (access, required) for path, access, required in resolve(preset(name), NEW, HERE).fs_rules}
    assert rules["/usr"] == (landlock.READ, True)
    for path in ("/bin", "/lib64", "/work", "/usr/bin/python3", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/localtime",
                 "/etc/passwd", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/dev/urandom"):  # fmt: skip
        assert rules[path][0] & landlock.READ == landlock.READ
        assert not rules[path][1], f"{path} may be missing on some distribution"


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_preset_paths_are_normal_optional_and_named_once(name: str) -> None:
    policy = preset(name)
    for path in (*policy.fs_readable, *policy.fs_writable):
        assert path == "/usr" or is_optional(path)
        if path.startswith("-/"):
            assert normalise(path[1:]) == path[1:]
    assert len(set(policy.fs_readable)) == len(policy.fs_readable)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_can_be_written_as_a_profile(name: str) -> None:
    assert Policy.from_toml(preset(name).to_toml()) == preset(name)


def test_what_this_machine_has_of_the_default_preset_can_be_opened() -> None:
    plan = resolve(preset("default"), NEW, HERE)
    present = [path for path, _, _ in plan.fs_rules if os.path.exists(path)]
    assert "/usr" in present
    assert "/etc/passwd" in present


def test_a_branch_over_the_current_directory_is_refused_where_nobody_works() -> None:
    for name in ("git", "agent"):
        assert resolve(preset(name), NEW, HERE).view is not None
        for cwd in ("/", "/home/me", "/home", "/etc"):
            with pytest.raises(PolicyError, match="no place of one project's work"):
                resolve(preset(name), NEW, Context(cwd, "/home/me", {}, 1000, 1000, "/bin/sh"))


def test_a_home_of_its_own_needs_a_private_directory() -> None:
    with pytest.raises(PolicyError, match="set private_tmp"):
        Policy(env={"HOME": "${TMPDIR}"})
    plan = resolve(Policy(env={"X": "${HOME}/x", "Y": "a${HOME}", "Z": "${HOMES}"}), NEW, HERE)
    assert [plan.env[name] for name in "XYZ"] == ["/home/me/x", "a${HOME}", "${HOMES}"]
