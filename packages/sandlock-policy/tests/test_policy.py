"""A policy is checked as a whole, kept in one canonical form, and compared by value."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
import pickle
from typing import Any

import pytest

from sandlock_policy import Policy, PolicyError, SandlockError
from sandlock_policy.errors import Problem
from sandlock_policy.fields import FIELDS


def problems_of(**fields: Any) -> dict[str, str]:
    """Return field -> reason of what `fields` do wrong; the positive control is `Policy()` itself."""
    with pytest.raises(PolicyError) as caught:
        Policy(**fields)
    return {problem.field: problem.reason for problem in caught.value.problems}


def test_a_policy_that_says_nothing_has_the_defaults_of_the_table() -> None:
    policy = Policy()
    assert {field.name: getattr(policy, field.name) for field in FIELDS} == {
        field.name: field.default for field in FIELDS
    }
    assert policy.given() == {}
    assert repr(policy) == "Policy()"


def test_none_means_that_a_field_is_not_set() -> None:
    assert Policy(**dict.fromkeys([field.name for field in FIELDS])) == Policy()


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("fs_readable", [pathlib.Path("/usr"), b"/\xff", "~/x"], ("/usr", "/\udcff", "~/x")),
        ("fs_readable", iter(["/a", "/b", "/a"]), ("/a", "/b")),
        ("fs_readable", {"/b", "/a"}, ("/a", "/b")),
        ("max_memory", "512M", 512 << 20),
        ("timeout", "1.5m", 90.0),
        ("timeout", 3, 3.0),
        ("grace", 0, 0.0),
        ("max_cpu", "150%", 150),
        ("cpu_cores", "0,2-3", (0, 2, 3)),
        ("cpu_cores", [3, 0], (0, 3)),
        ("cpu_cores", 1, (1,)),
        ("gpu_devices", "all", "all"),
        ("gpu_devices", "0,2", (0, 2)),
        ("gpu_devices", [], None),
        ("env", {"A": "1", "B": None}, {"A": "1", "B": None}),
        ("env", ["A=1", "B", "C="], {"A": "1", "B": None, "C": ""}),
        ("net_allow", ["TCP://:443", "Example.ORG."], ("tcp://*:443", "example.org")),
        ("net_allow_bind", [80, "8000-8010", "443"], (80, "8000-8010", 443)),
        ("http_ports", ["80", 8080], (80, 8080)),
        ("fs_mount", {"/data": "/srv"}, {"/data": "/srv"}),
        ("fs_mount_ro", ["/data:/srv:ro", "/x/:/y"], {"/data": "/srv", "/x": "/y"}),
        ("time_start", "2030-01-01T01:00:00+01:00", "2030-01-01T00:00:00Z"),
        ("time_start", dt.datetime(2030, 1, 1, tzinfo=dt.UTC), "2030-01-01T00:00:00Z"),
        ("random_seed", "0", 0),
        ("allow_degraded", ["ioctl_dev", "fs_ioctl_dev"], ("fs_ioctl_dev",)),
        ("namespaces", "OFF", "off"),
        ("credentials", {"T": "env:TOKEN"}, {"T": "env:TOKEN"}),
        ("image", "oci:./root", "oci:./root"),
    ],
)
def test_every_spelling_ends_in_one_canonical_value(field: str, given: object, kept: object) -> None:
    policy = Policy(**{field: given})  # type: ignore[arg-type]
    assert getattr(policy, field) == kept
    assert type(getattr(policy, field)) in (type(kept), *type(kept).__subclasses__())
    assert Policy(**{field: getattr(policy, field)}) == policy
    assert hash(policy) == hash(Policy(**{field: getattr(policy, field)}))


def test_all_faults_are_reported_at_once_under_their_toml_paths() -> None:
    reasons = problems_of(
        max_memory="12Q",
        fs_readable=["/ok", "", "~bob/x"],
        timeout=0,
        max_memmory=1,
        net_allow=["tcp://:0"],
        env=["=x"],
    )
    assert set(reasons) == {
        "limits.memory",
        "filesystem.read[1]",
        "filesystem.read[2]",
        "limits.timeout",
        "max_memmory",
        "network.allow[0]",
        "program.env[0]",
    }
    assert reasons["limits.memory"] == "'Q' is not a unit of size"


def test_the_error_is_a_value_error_of_the_project_that_lists_everything() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(max_memory="12Q", max_memmory=1)  # type: ignore[call-arg]
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SandlockError)
    assert str(caught.value) == (
        "2 problems in the policy:\n"
        "  limits.memory: 'Q' is not a unit of size; write bytes, or a number with K, M, G or T (1024-based),"
        " such as 512M\n"
        "      12Q\n"
        "        ^\n"
        "  max_memmory: there is no such field; did you mean 'max_memory'?"
    )
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems  # noqa: S301


@pytest.mark.parametrize("value", ["/usr", b"/usr", 3, object()])
def test_a_list_field_does_not_take_a_single_value(value: object) -> None:
    assert "is not a list" in problems_of(fs_readable=value)["filesystem.read"]


@pytest.mark.parametrize("value", [1, 0, "true", "yes", []])
def test_a_boolean_is_true_or_false_and_nothing_else(value: object) -> None:
    assert "neither true nor false" in problems_of(clean_env=value)["program.clean_env"]


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"max_disk": "1G"}, "limits.disk", "there is no workdir"),
        ({"fs_storage": "/x"}, "filesystem.storage", "there is no workdir"),
        ({"on_exit": "keep"}, "filesystem.on_exit", "there is no workdir"),
        ({"chroot": "/r", "image": "oci:/i"}, "filesystem.chroot", "both the root"),
        ({"http_ca": "/c"}, "http.ca", "of no use without http_key"),
        ({"http_key": "/k"}, "http.key", "of no use without http_ca"),
        ({"net_refresh": True}, "network.refresh", "no allowed name"),
        ({"namespaces": "off", "uid": 0}, "program.uid", "namespaces are off"),
        ({"fs_denied": ["/a/"], "fs_readable": ["/a"]}, "filesystem.deny[0]", "both denied and granted"),
        ({"fs_denied": ["/a"], "fs_writable": ["/a"]}, "filesystem.deny[0]", "both denied and granted"),
        ({"disable": ["fs_refer"], "allow_degraded": ["fs_refer"]}, "program.disable[0]", "both switched off"),
        (
            {"extra_deny_syscalls": ["ptrace"], "extra_allow_syscalls": ["ptrace"]},
            "program.extra_deny_syscalls[0]",
            "both denied and allowed",
        ),
        ({"fs_mount": {"/v": "/a"}, "fs_mount_ro": {"/v": "/b"}}, "filesystem.mount[0]", "mounted twice"),
        ({"fs_denied": ["/v"], "fs_mount": {"/v": "/a"}}, "filesystem.deny[0]", "both denied and mounted"),
        ({"fs_denied": ["/v"], "fs_mount_ro": {"/v": "/a"}}, "filesystem.deny[0]", "both denied and mounted"),
        ({"http_ca_out": "/b", "http_inject_ca": ["-/b"]}, "http.ca_out", "written over the bundle"),
        ({"http_auth": ["GET a.org/* bearer T"]}, "http.auth[0]", "there is no credential 'T'"),
        ({"credentials": ["T=env:V"], "env": ["V"]}, "program.env.V", "would see the credential T"),
        ({"env": ["A=1", "A=2"]}, "program.env[1]", "given twice"),
    ],
)
def test_a_pair_that_contradicts_itself_is_refused(fields: dict[str, Any], field: str, reason: str) -> None:
    assert reason in problems_of(**fields)[field]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_disk": "1G", "workdir": "/w", "on_exit": "keep"},
        {"http_ca": "/c", "http_key": "/k"},
        {"net_refresh": True, "net_allow": ["example.org"]},
        {"fs_denied": ["/a/b"], "fs_readable": ["/a"]},
        {"http_auth": ["GET a.org/* bearer T"], "credentials": ["T=env:V"]},
        {"env": ["A=1", "A=1"]},
        {"credentials": ["T=env:V"], "env": ["W"]},
    ],
)
def test_the_same_fields_without_the_contradiction_are_taken(fields: dict[str, Any]) -> None:
    assert set(Policy(**fields).given()) == set(fields)


@pytest.mark.parametrize("field", ["env", "credentials"])
@pytest.mark.parametrize("given", [["NAME=s3cret\0"], {"NAME": b"s3cret"}, {"NAME": "s3cret\0"}, ["=s3cret"]])
def test_no_error_shows_what_may_be_a_secret(field: str, given: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(**{field: given})
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.problems)


def test_replace_checks_again_and_none_puts_back_the_default() -> None:
    policy = Policy(max_memory="1G", timeout=3)
    assert policy.replace(timeout=None) == Policy(max_memory="1G")
    assert policy.replace(timeout=5).timeout == 5.0
    with pytest.raises(PolicyError, match=r"limits\.timeout"):
        policy.replace(timeout=-1)
    assert policy.timeout == 3.0


def test_a_policy_is_frozen_plain_data() -> None:
    policy = Policy(env={"A": "1"}, fs_readable=["/usr"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.timeout = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="frozen"):
        policy.env["B"] = "2"
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301
    assert dataclasses.replace(policy, timeout=2.0) == policy.replace(timeout=2)
    assert dataclasses.asdict(policy)["fs_readable"] == ("/usr",)


def test_the_repr_shows_what_was_said_and_nothing_else() -> None:
    assert repr(Policy(timeout=3)) == "Policy(timeout=3.0)"


def test_an_error_shows_the_value_also_where_the_reason_does_not() -> None:
    assert str(PolicyError([Problem("filesystem.chroot", "/srv/x", "is no directory", "make it")])) == (
        "filesystem.chroot = /srv/x: is no directory; make it"
    )
    told = str(PolicyError([Problem("filesystem.chroot", "/" + "x" * 5000, "is no directory")]))
    assert len(told) < 300
    assert str(PolicyError([Problem("a", "'v'", "'v' is wrong")])) == "a: 'v' is wrong"
    with pytest.raises(PolicyError, match="there are fs_access, fs_refer"):
        Policy(disable=["nothing-like-it"])
