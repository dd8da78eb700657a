"""The field table is whole: model, inputs, grammars and spellings agree with it."""

from __future__ import annotations

import importlib
import typing

import pytest

from sandlock_policy import Policy
from sandlock_policy.fields import BY_VALUE, FIELD_BY_NAME, FIELDS, GROUPS, KERNEL, KINDS, SERVED, Field
from sandlock_policy.inputs import PolicyInputs


def test_the_model_and_its_inputs_have_the_fields_of_the_table() -> None:
    names = [field.name for field in FIELDS]
    assert set(Policy.__annotations__) == set(names)
    assert set(PolicyInputs.__annotations__) == set(names)
    assert set(Policy.__match_args__) == set(names)


def test_names_and_flags_are_unique() -> None:
    names = [field.name for field in FIELDS]
    flags = [flag for field in FIELDS for flag in (*field.flags, field.off_flag) if flag]
    assert len(names) == len(set(names)) == len(FIELD_BY_NAME)
    assert len(flags) == len(set(flags))


def test_keys_are_unique_but_for_the_two_kinds_of_mounts() -> None:
    keys = [field.key for field in FIELDS if field.key and field.name != "fs_mount_ro"]
    assert len(keys) == len(set(keys))
    assert FIELD_BY_NAME["fs_mount_ro"].key == FIELD_BY_NAME["fs_mount"].key == "filesystem.mount"


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_field_is_described(field: Field) -> None:
    assert field.help
    assert field.help[0] != field.help[0].upper() or not field.help[0].isalpha()
    assert field.enforced in (KERNEL, SERVED, BY_VALUE)
    assert field.group in GROUPS
    assert field.kind in KINDS
    assert all(flag.startswith("-") for flag in field.flags)
    assert (field.kind == "bool") == bool(field.off_flag)
    assert (field.kind == "bool") == (field.metavar == "")
    if field.shape == "list":
        assert field.default == ()
    if field.shape == "mapping":
        assert field.default == {}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_documented_parser(kind: str) -> None:
    module, _, function = KINDS[kind][1].partition(":")
    parser = getattr(importlib.import_module(f"sandlock_policy.{module}"), function)
    assert parser.__doc__
    assert KINDS[kind][0] in ("one", "list", "mapping")


def test_every_kind_is_used() -> None:
    assert {field.kind for field in FIELDS} == set(KINDS)


# The names, keys and flags that users were promised (features.md), so that a slip in the table is seen.
PROMISED = {
    "fs_readable": ("filesystem.read", "-r", "--fs-read"),
    "fs_writable": ("filesystem.write", "-w", "--fs-write"),
    "fs_denied": ("filesystem.deny", "--fs-deny"),
    "chroot": ("filesystem.chroot", "--chroot"),
    "fs_mount": ("filesystem.mount", "--fs-mount"),
    "image": ("", "--image"),
    "workdir": ("filesystem.workdir", "--workdir"),
    "fs_storage": ("filesystem.storage", "--fs-storage"),
    "max_disk": ("limits.disk", "--max-disk"),
    "on_exit": ("filesystem.on_exit", "--on-exit"),
    "on_error": ("filesystem.on_error", "--on-error"),
    "cwd": ("program.cwd", "--cwd"),
    "net_allow": ("network.allow", "--net-allow"),
    "net_deny": ("network.deny", "--net-deny"),
    "net_allow_bind": ("network.allow_bind", "--net-allow-bind"),
    "net_deny_bind": ("network.deny_bind", "--net-deny-bind"),
    "unix_allow": ("network.unix", "--unix-allow"),
    "port_remap": ("network.port_remap", "--port-remap"),
    "http_allow": ("http.allow", "--http-allow"),
    "http_deny": ("http.deny", "--http-deny"),
    "http_ports": ("http.ports", "--http-port"),
    "http_ca": ("http.ca", "--http-ca"),
    "http_key": ("http.key", "--http-key"),
    "http_inject_ca": ("http.inject_ca", "--http-inject-ca"),
    "http_ca_out": ("http.ca_out", "--http-ca-out"),
    "credentials": ("http.credentials", "--credential"),
    "http_auth": ("http.auth", "--http-auth"),
    "max_memory": ("limits.memory", "-m", "--max-memory"),
    "max_processes": ("limits.processes", "-P", "--max-processes"),
    "max_open_files": ("limits.open_files", "--max-open-files"),
    "max_cpu": ("limits.cpu", "-c", "--cpu"),
    "cpu_cores": ("limits.cpu_cores", "--cpu-cores"),
    "num_cpus": ("limits.num_cpus", "--num-cpus"),
    "gpu_devices": ("limits.gpu_devices", "--gpu"),
    "timeout": ("limits.timeout", "-t", "--timeout"),
    "name": ("", "--name"),
    "namespaces": ("program.namespaces", "--namespaces"),
    "random_seed": ("determinism.random_seed", "--random-seed"),
    "time_start": ("determinism.time_start", "--time-start"),
    "deterministic_dirs": ("determinism.deterministic_dirs", "--deterministic-dirs"),
}


@pytest.mark.parametrize("name", PROMISED)
def test_the_promised_spellings_are_there(name: str) -> None:
    key, *flags = PROMISED[name]
    assert (FIELD_BY_NAME[name].key, list(FIELD_BY_NAME[name].flags)) == (key, flags)


def test_the_inputs_resolve_for_type_checkers() -> None:
    assert set(typing.get_type_hints(PolicyInputs)) == set(FIELD_BY_NAME)
