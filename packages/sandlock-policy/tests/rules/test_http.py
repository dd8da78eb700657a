"""Rules about HTTP requests: `METHOD HOST[:PORT]/PATH`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.http import HttpRule, check_rule, parse_rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("GET api.example.org/v1/items", HttpRule("GET", "api.example.org", None, ("v1", "items"), False)),
        ("GET a.org/", HttpRule("GET", "a.org", None, ("",), False)),
        ("* */*", HttpRule("*", "*", None, ("",), True)),
        ("GET a.org/v1/*", HttpRule("GET", "a.org", None, ("v1", ""), True)),
        ("GET a.org/v1/ab*", HttpRule("GET", "a.org", None, ("v1", "ab"), True)),
        ("GET a.org/*/b", HttpRule("GET", "a.org", None, ("*", "b"), False)),
        ("POST *.Example.org:8443/x", HttpRule("POST", "*.example.org", 8443, ("x",), False)),
        ("GET 10.0.0.1:80/x", HttpRule("GET", "10.0.0.1", 80, ("x",), False)),
        ("GET  [::1]:80/x", HttpRule("GET", "::1", 80, ("x",), False)),
        ("GET a.org/%7euser/%E2%82%AC", HttpRule("GET", "a.org", None, ("~user", "€"), False)),
        ("M-SEARCH a.org/x/", HttpRule("M-SEARCH", "a.org", None, ("x", ""), False)),
    ],
)
def test_each_form_is_understood(text: str, rule: HttpRule) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(check_rule(text)) == rule


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("", "'' is not a method", 0),
        ("GET", "a rule is a method and one HOST/PATH", 3),
        ("get a.org/x", "methods are compared exactly", 0),
        ("G*T a.org/x", "is not a method", 1),
        ("GET a.org/x y", "a rule is a method and one HOST/PATH", 11),
        ("GET https://a.org/x", "a rule has no scheme", 4),
        ("GET a.org", "the path is missing", 9),
        ("GET u@a.org/x", "a rule has no user name", 5),
        ("GET a.org:80,81/x", "an HTTP rule has one port", 10),
        ("GET a.org:x/x", "'x' is not a port", 10),
        ("GET [::1/x", "`\\[` has no `\\]`", 4),
        ("GET a.org/x?y", "'\\?' cannot be in the path", 11),
        ("GET a.org/x#y", "'#' cannot be in the path", 11),
        ("GET a.org/x\\y", "cannot be in the path", 11),
        ("GET a.org/é", "cannot be in the path", 10),
        ("GET a.org//x", "empty component", None),
        ("GET a.org/a/../b", "not a component of a normal path", 12),
        ("GET a.org/%2e%2e/b", "not a component of a normal path", 10),
        ("GET a.org/a%2fb", "'%2f' cannot be in the path", 11),
        ("GET a.org/a%5cb", "'%5c' cannot be in the path", 11),
        ("GET a.org/a%00b", "'%00' cannot be in the path", 11),
        ("GET a.org/a%252fb", "'%25' cannot be in the path", 11),
        ("GET a.org/a%zz", "'%zz' cannot be in the path", 11),
        ("GET a.org/a%2", "'%2' cannot be in the path", 11),
        ("GET a.org/a*b/c", "whole component, or the end", 11),
        ("GET a.org/**", "one `\\*` ends the path", 11),
        ("GET a.org/%2a/b", "'%2a' cannot be in the path", 10),
    ],
)
def test_a_fault_is_named_and_pointed_at(text: str, reason: str, position: int | None) -> None:
    with pytest.raises(RuleError, match=reason) as caught:
        parse_rule(text)
    assert position is None or caught.value.position == position


@given(st.text(alphabet="GET a.org/*%2ef?#:[]@\\", max_size=30))
def test_any_text_is_either_a_rule_or_a_rule_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except RuleError as fault:
        assert fault.position is None or 0 <= fault.position <= len(text)  # noqa: PT017 - both outcomes are fine
    else:
        assert not {".", ".."} & set(rule.path)
        assert not any("/" in component or "\\" in component for component in rule.path)
