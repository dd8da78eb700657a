"""Credentials name where a secret is, and rules say which requests it is attached to."""

from __future__ import annotations

import pytest

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.credentials import AuthRule, check_auth, parse_auth, parse_credential
from sandlock_policy.rules.http import HttpRule

RULE = HttpRule("GET", "a.org", None, ("",), True)


def test_each_source_is_understood() -> None:
    assert parse_credential("T=env:TOKEN") == ("T", "env:TOKEN")
    assert parse_credential("T=file:~/token") == ("T", "file:~/token")
    assert parse_credential(("T", "fd:3")) == ("T", "fd:3")


@pytest.mark.parametrize(
    "item",
    ["T", "T=", "T=s3cret", "T=env:", "T=env:A=B", "T=file:", "T=fd:x", "=env:A", 3, ("T", 3), ("T",), "a b=env:V"],
)
def test_what_is_no_source_is_refused_without_being_shown(item: object) -> None:
    with pytest.raises(RuleError) as caught:
        parse_credential(item)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("GET a.org/* bearer T", AuthRule(RULE, "bearer", "", "T")),
        ("GET a.org/*  basic:me T replace", AuthRule(RULE, "basic", "me", "T")),
        ("GET a.org/* header:X-Api-Key T add-only", AuthRule(RULE, "header", "X-Api-Key", "T", "add-only")),
        ("GET a.org/* query:key T", AuthRule(RULE, "query", "key", "T")),
    ],
)
def test_each_shape_is_understood(text: str, rule: AuthRule) -> None:
    assert parse_auth(text) == rule
    assert parse_auth(check_auth(text)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "GET a.org/* bearer",
        "GET a.org/* bearer T replace more",
        "GET a.org/* bearer:x T",
        "GET a.org/* basic T",
        "GET a.org/* basic:a:b T",
        "GET a.org/* header: T",
        "GET a.org/* header:a: T",
        "GET a.org/* cookie:a T",
        "GET a.org/* bearer T always",
        "GET a.org bearer T x",
        "get a.org/* bearer T",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(RuleError):
        parse_auth(text)
