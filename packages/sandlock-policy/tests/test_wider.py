"""Which policy lets a program do more: a field at a time."""

from __future__ import annotations

from typing import Any

import pytest

from sandlock_policy.fields import FIELDS
from sandlock_policy.model import Policy
from sandlock_policy.wider import wider_fields

GRANTS = {"fs_readable": ["/usr"], "fs_writable": ["/tmp/a"]}


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        ({}, {}, []),
        (GRANTS, GRANTS, []),
        (GRANTS, {"fs_readable": ["/usr"]}, []),
        (GRANTS, {"fs_readable": ["/usr", "/tmp/a"]}, []),  # who may write may read
        (GRANTS, {"fs_writable": ["/usr"]}, ["filesystem.write"]),
        (GRANTS, {"fs_readable": ["/usr/lib"]}, ["filesystem.read"]),  # which may be a link
        ({"fs_denied": ["/a"]}, {"fs_denied": ["/a", "/b"]}, []),
        ({"fs_denied": ["/a"]}, {}, ["filesystem.deny"]),
        ({"max_processes": 3}, {"max_processes": 2}, []),
        ({}, {"max_processes": 2}, []),
        ({"max_processes": 3}, {"max_processes": 4}, ["limits.processes"]),
        ({"max_processes": 3}, {}, ["limits.processes"]),
        ({"net_allow": ["1.1.1.1:1", "2.2.2.2:2"]}, {"net_allow": ["1.1.1.1:1"]}, []),
        ({"net_allow": ["1.1.1.1:1"]}, {}, []),
        ({}, {"net_allow": ["1.1.1.1:1"]}, ["network.allow"]),
        ({}, {"net_deny": ["private"]}, ["network.deny"]),  # all others may be reached
        ({"net_deny": ["private"]}, {}, []),
        ({"net_deny": ["private"]}, {"net_deny": ["private", "1.1.1.1:1"]}, []),
        ({"net_deny": ["private", "1.1.1.1:1"]}, {"net_deny": ["private"]}, ["network.deny"]),
        ({"net_deny": ["private"]}, {"net_deny": ["private"], "net_allow": ["1.1.1.1:1"]}, []),
        ({"net_deny": ["private"], "net_allow": ["1.1.1.1:1"]}, {"net_deny": ["private"]}, ["network.allow"]),
        ({"http_allow": ["GET a.example/*"]}, {"http_allow": ["GET a.example/*", "GET b.example/*"]}, ["http.allow"]),
        ({"cpu_cores": "0-3"}, {"cpu_cores": "1"}, []),
        ({"cpu_cores": "0-3"}, {}, ["limits.cpu_cores"]),
        ({}, {"cpu_cores": "1"}, []),
        ({"no_coredump": True}, {"no_coredump": False}, ["program.no_coredump"]),
        ({}, {"private_tmp": True}, ["filesystem.private_tmp"]),
        ({"workdir": "/w"}, {}, ["filesystem.workdir"]),
        ({"workdir": "/w", "on_exit": "abort"}, {"workdir": "/w"}, ["filesystem.on_exit"]),
        ({"workdir": "/w"}, {"workdir": "/w", "on_exit": "abort"}, []),
        ({}, {"extra_allow_syscalls": ["ptrace"]}, ["program.extra_allow_syscalls"]),
        ({}, {"disable": ["scope_signal"]}, ["program.disable"]),
        ({"time_start": "2001-01-01T00:00:00Z"}, {"random_seed": 3}, []),
    ],
    ids=str,
)
def test_what_is_wider(old: dict[str, Any], new: dict[str, Any], wider: list[str]) -> None:
    assert list(wider_fields(Policy(**old), Policy(**new))) == wider


def test_no_field_is_forgotten() -> None:
    """A field that has no rule may not change at all: those that have none are the ones meant."""
    from sandlock_policy.wider import _RULES

    without = {field.name for field in FIELDS} - set(_RULES)
    assert without == {
        "chroot", "fs_mount", "fs_mount_ro", "workdir", "http_allow", "http_deny", "http_ports", "http_ca", "http_key",
        "http_inject_ca", "http_ca_out", "credentials", "http_auth", "gpu_devices", "uid", "gid", "image",
    }  # fmt: skip
