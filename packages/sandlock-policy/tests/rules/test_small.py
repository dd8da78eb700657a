"""The small grammars: numbers, names, choices, mounts, images, variables."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.environment import parse_variable
from sandlock_policy.rules.images import parse_image
from sandlock_policy.rules.mounts import parse_mount, parse_mount_ro, split_mounts
from sandlock_policy.rules.names import parse_protection, parse_syscall
from sandlock_policy.rules.numbers import parse_cores, parse_gpus
from sandlock_policy.rules.scalars import (
    parse_branch_action,
    parse_count,
    parse_id,
    parse_name,
    parse_namespaces,
    parse_percent,
    parse_seed,
)


class Action(enum.Enum):
    KEEP = "keep"


@pytest.mark.parametrize(
    ("parse", "value", "result"),
    [
        (parse_count, 1, 1),
        (parse_count, "64", 64),
        (parse_id, 0, 0),
        (parse_seed, 2**64 - 1, 2**64 - 1),
        (parse_percent, "50%", 50),
        (parse_name, "web-1.test", "web-1.test"),
        (parse_branch_action, "DEFER", "defer"),
        (parse_branch_action, Action.KEEP, "keep"),
        (parse_namespaces, "require", "require"),
        (parse_cores, "0-3,2", (0, 1, 2, 3)),
        (parse_cores, range(2), (0, 1)),
        (parse_gpus, "all", "all"),
        (parse_gpus, 1, (1,)),
        (parse_image, "oci-archive:/x.tar", "oci-archive:/x.tar"),
        (parse_mount, "/data:/srv/data", ("/data", "/srv/data")),
        (parse_mount, ("/data/", "srv"), ("/data", "srv")),
        (parse_mount_ro, "/data:/srv:ro", ("/data", "/srv")),
        (parse_variable, "A=b=c", ("A", "b=c")),
        (parse_variable, "A", ("A", None)),
        (parse_protection, "ioctl_dev", "fs_ioctl_dev"),
        (parse_syscall, "sysv_ipc", "sysv_ipc"),
    ],
)
def test_each_form_is_understood(parse: Any, value: object, result: object) -> None:
    assert parse(value) == result


@pytest.mark.parametrize(
    ("parse", "values"),
    [
        (parse_count, [0, -1, True, "1.0", "", 2**31, "9" * 5000, None, 1.0]),
        (parse_id, [-1, 2**32 - 1, "root"]),
        (parse_seed, [-1, 2**64, "0x1"]),
        (parse_percent, [0, "0%", "%", 1.5]),
        (parse_name, ["", "-a", ".a", "a b", "a/b", "..", "a\n", "x" * 65, None, "é"]),
        (parse_branch_action, ["", "delete", None, 1]),
        (parse_namespaces, [True, "on"]),
        (parse_cores, ["", "a", "1-", "3-1", "0,,1", [-1], ["1"], [True], 1.5, None, 99999, "99999"]),
        (parse_gpus, ["ALL", "x", 128, [None]]),
        (parse_image, ["", "oci:", "docker:x", "/x", None, "oci:a\0"]),
        (parse_mount, ["/a", "a:/b", "/a:/b:ro", "/a:/b:rw", "/a:/b:ro:ro", "/../a:/b", ":/b", "/a:", None, ("/a",)]),
        (parse_mount_ro, ["/a", "/a:/b:rw", "/a:/b:", "/${X}:/b"]),
        (parse_variable, ["", "=x", "A\0=b", "A=\0", ("A", 1), ("A=B", "c"), 3, None]),
        (parse_protection, ["", "fs", None, "FS_REFER"]),
        (parse_syscall, ["", "a b", "1", None, "é"]),
    ],
)
def test_what_does_not_fit_is_refused(parse: Any, values: list[object]) -> None:
    for value in values:
        with pytest.raises(RuleError):
            parse(value)


def test_a_misspelled_protection_is_suggested() -> None:
    with pytest.raises(RuleError) as caught:
        parse_protection("fs_truncte")
    assert caught.value.remedy == "did you mean 'fs_truncate'?"


def test_mounts_are_split_by_their_ending() -> None:
    assert split_mounts(["/a:/b", "/c:/d:ro", 3]) == (["/a:/b", 3], ["/c:/d:ro"])
