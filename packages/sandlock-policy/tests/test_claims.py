"""A path that two options want to decide about is refused by name: none of them wins in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandlock_policy import Context, Policy, PolicyError
from sandlock_policy.features import features_of_abi
from sandlock_policy.fields import FIELDS, SERVED
from sandlock_policy.resolve import resolve

SERVED_NAMES = ("net_allow", *[field.name for field in FIELDS if field.enforced == SERVED])
HOST = replace(features_of_abi(7), served=SERVED_NAMES)
HERE = Context("/work", "/home/u", {}, 1000, 1000)
BUNDLE: dict[str, Any] = {"http_allow": ["GET a.org/*"], "http_inject_ca": ["/etc/ca.pem"]}


def problems(fields: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Field, value and fault of what stands against a policy, with namespaces and without."""
    found: list[list[tuple[str, str, str]]] = []
    for namespaces in ("auto", "off"):
        try:
            resolve(Policy(**fields, namespaces=namespaces), HOST, HERE)
            found.append([])
        except PolicyError as error:
            found.append([(one.field, one.value, one.reason) for one in error.problems if one.remedy])
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("path", ["/etc/hosts", "-/etc/hosts", "/etc//hosts", "/etc/resolv.conf"])
def test_a_bundle_in_the_place_of_the_names_is_refused(path: str) -> None:
    assert problems(BUNDLE) == []
    (field, value, reason), *more = problems({**BUNDLE, "http_inject_ca": ["/etc/ca.pem", path]})
    assert (field, value, more) == ("http.inject_ca[1]", path, [])
    assert "is taken by rules that allow hosts by name" in reason


@pytest.mark.parametrize(
    ("fields", "path", "by"),
    [
        ({"name": "box"}, "/etc/hostname", "name"),
        ({"num_cpus": 1}, "/sys/devices/system/cpu/online", "num_cpus"),
        ({}, "/proc/self/environ", "the kernel"),
        ({"fs_mount": {"/etc/ca.pem": "/h"}}, "/etc/ca.pem", "fs_mount"),
        ({"fs_mount_ro": {"/etc/ca.pem": "/h"}}, "/etc/ca.pem", "fs_mount"),
    ],
)
def test_a_bundle_in_the_place_of_another_file_is_refused(fields: dict[str, Any], path: str, by: str) -> None:
    assert problems({**BUNDLE, **fields, "http_inject_ca": ["/etc/other.pem"]}) == []
    (field, value, reason), *more = problems({**BUNDLE, **fields, "http_inject_ca": [path]})
    assert (field, value, more) == ("http.inject_ca[0]", path, [])
    assert f"{path} is taken by {by}" in reason


@pytest.mark.parametrize(
    ("fields", "path", "by"),
    [
        ({"net_allow": ["tcp://a.org:80"]}, "/etc/hosts", "rules that allow hosts by name"),
        ({"net_allow": ["tcp://a.org:80"]}, "/etc/resolv.conf", "rules that allow hosts by name"),
        ({"name": "box"}, "/etc/hostname", "name"),
        ({"max_memory": "1G"}, "/proc/meminfo", "max_memory"),
        ({"workdir": "/w"}, "/w", "workdir"),
        ({"chroot": "/r", "workdir": "/r/w"}, "/w", "workdir"),
    ],
)
def test_a_mount_in_the_place_of_what_another_option_shows_is_refused(
    fields: dict[str, Any], path: str, by: str
) -> None:
    assert problems({"fs_mount": {path: "/h"}}) == []
    assert problems({**fields, "fs_mount": {"/else": "/h"}}) == []
    (field, value, reason), *more = problems({**fields, "fs_mount": {"/else": "/h"}, "fs_mount_ro": {path: "/h"}})
    assert (field, value, more) == ("filesystem.mount[1]", path, [])
    assert f"{path} is taken by {by}" in reason
