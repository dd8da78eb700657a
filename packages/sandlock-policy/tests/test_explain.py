"""A plan is told as rows that a person can read."""

from __future__ import annotations

import dataclasses

from sandlock_policy import Context, Policy, resolve
from sandlock_policy.data.protections import PROTECTIONS
from sandlock_policy.explain import explain, explain_text
from sandlock_policy.features import features_of_abi
from sandlock_policy.fields import FIELDS, SERVED

SERVED_NAMES = tuple(field.name for field in FIELDS if field.enforced == SERVED)
HERE = Context("/work", "/home/me", {"PATH": "/bin", "SECRET": "s3cret"}, 1000, 1000)


def test_every_protection_grant_and_limit_has_its_row() -> None:
    policy = Policy(
        fs_readable=["/usr", "-/nowhere"], fs_writable=["/out"], net_allow=["tcp://:443"], private_tmp=True, timeout=3,
        max_open_files=9, cpu_cores=[1], max_cpu=50, disable=["fs_refer"], env=["SECRET"],
    )  # fmt: skip
    rows = explain(resolve(policy, features_of_abi(7), HERE))
    assert [row[0] for row in rows[: len(PROTECTIONS)]] == list(PROTECTIONS)
    assert ("fs_access", "landlock", "files are opened, made and removed only where a grant says so") in rows
    assert next(row for row in rows if row[0] == "fs_refer")[1] == "DISABLED"
    for row in [
        ("read", "landlock", "/usr"),
        ("read", "landlock", "/nowhere (if it is there)"),
        ("write", "landlock", "/out"),
        ("write", "landlock", "a private temporary directory, named by TMPDIR"),
        ("connect", "landlock", "TCP ports 443"),
        ("limit", "rlimit", "open files: 9"),
        ("limit", "affinity", "cores 1"),
        ("limit", "guard", "50 % of one core for the whole tree"),
        ("limit", "guard", "3 s, then SIGTERM, and SIGKILL 2 s later"),
        ("start", "-", "in /work with HOME, PATH, SECRET"),
    ]:
        assert row in rows
    assert "s3cret" not in str(rows)


def test_what_the_supervisor_serves_is_named() -> None:
    features = dataclasses.replace(features_of_abi(7), served=SERVED_NAMES)
    assert ("field", "supervisor", "max_memory") in explain(resolve(Policy(max_memory="1G"), features, HERE))


def test_a_path_cannot_write_to_the_terminal() -> None:
    text = explain_text(resolve(Policy(fs_readable=["/a\x1b[2J\n/b\udcff"]), features_of_abi(7), HERE))
    assert "\x1b" not in text
    assert "/a\\x1b[2J\\n/b\\udcff" in text


def test_the_text_is_aligned_and_says_what_degraded() -> None:
    degraded = ["fs_ioctl_dev", "scope_signal"]
    text = explain_text(resolve(Policy(allow_degraded=degraded, namespaces="off"), features_of_abi(3), HERE))
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("scope_signal")).split()[1] == "DEGRADED"
    assert "needs Landlock ABI 6 (Linux 6.12), which has ABI 3 here" in text
    assert text.endswith("\n")
    assert len({line.index(line.split(maxsplit=2)[1]) for line in lines[: len(PROTECTIONS)]}) == 1
