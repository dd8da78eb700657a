"""Paths are expanded and made absolute without touching the file system."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.errors import RuleError
from sandlock_policy.paths import anchor, expand_path, is_below, is_optional, normalise, parse_path


def expand(path: str, **variables: str) -> str:
    return expand_path(path, cwd="/work", home="/home/me", variables=variables)


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("/usr", "/usr"),
        ("/", "/"),
        ("//usr//lib/./x/", "/usr/lib/x"),
        ("a/b", "/work/a/b"),
        (".", "/work"),
        ("./a", "/work/a"),
        ("../a", "/work/../a"),
        ("/a/../b", "/a/../b"),
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("a/~", "/work/a/~"),
        ("${V}/x", "/v/x"),
        ("x/${R}", "/work/x/r"),
        ("${R}/x", "/work/r/x"),
        ("$V", "/work/$V"),
        ("/a\udcff", "/a\udcff"),
        ("/.hidden", "/.hidden"),
        ("/a/...", "/a/..."),
    ],
)
def test_a_path_becomes_absolute(path: str, absolute: str) -> None:
    assert expand(path, V="/v", R="r") == absolute


def test_a_variable_that_is_not_set_is_named() -> None:
    for variables in ({}, {"V": ""}):
        with pytest.raises(RuleError, match="the variable V is not set"):
            expand("${V}/x", **variables)


def test_a_home_that_is_not_known_is_an_error() -> None:
    with pytest.raises(RuleError, match="not known"):
        expand_path("~/x", cwd="/work", home="", variables={})


@pytest.mark.parametrize(
    ("value", "reason", "position"),
    [
        ("", "is empty", None),
        (b"", "is empty", None),
        ("a\0b", "NUL byte", 1),
        ("~root/x", "not the home of another user", None),
        ("-~root", "not the home of another user", None),
        ("/a/${", "has no `}`", 3),
        ("${}", "is not the name", 2),
        ("${A-B}", "is not the name", 2),
        ("${A}${B", "has no `}`", 4),
        (3, "is not a path", None),
        (None, "is not a path", None),
        (["/a"], "is not a path", None),
    ],
)
def test_what_is_no_path_is_refused(value: object, reason: str, position: int | None) -> None:
    with pytest.raises(RuleError, match=reason) as caught:
        parse_path(value)
    assert caught.value.position == position


def test_a_dash_marks_only_what_cannot_be_a_relative_name() -> None:
    assert [is_optional(path) for path in ("-/a", "-~", "-${V}", "-a", "-", "--/a", "/-")] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_a_profile_anchors_its_relative_paths_only() -> None:
    assert [anchor(path, "/etc/p/") for path in ("a", "../a", "/a", "~/a", "${V}/a", "-/a", "-a", ".")] == [
        "/etc/p/a",
        "/etc/p/../a",
        "/a",
        "~/a",
        "${V}/a",
        "-/a",
        "/etc/p/-a",
        "/etc/p/.",
    ]


@given(
    st.lists(st.sampled_from(["", ".", "..", "a", "b c", "\udcff", "~", "..."])).map(
        lambda parts: "/" + "/".join(parts)
    )
)
def test_normal_paths_stay_and_mean_the_same(path: str) -> None:
    normal = normalise(path)
    assert normalise(normal) == normal
    assert "//" not in normal
    assert "." not in normal.split("/")
    assert os.path.normpath(normal) == os.path.normpath("/" + path.lstrip("/"))


@given(
    st.binary(min_size=1, max_size=20).filter(
        lambda raw: b"\0" not in raw and b"${" not in raw and raw[:1] not in b"~-"
    )
)
def test_every_byte_but_nul_survives(raw: bytes) -> None:
    assert os.fsencode(parse_path(raw)) == raw
    assert os.fsencode(expand("/" + parse_path(raw))).replace(b"/", b"") == raw.replace(b"/", b"") or b"." in raw


@pytest.mark.parametrize(
    ("path", "folder", "below"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/a/b", "/a/", True),
        ("/a", "/", True),
        ("/", "/", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/", "/a", False),
    ],
)
def test_a_name_that_begins_alike_is_not_below(path: str, folder: str, below: bool) -> None:
    assert is_below(path, folder) is below
