"""A decision of the HTTP proxy as an event: what kind, and which option would allow the request."""

from __future__ import annotations

import shlex

import pytest

from sandlock_policy import Policy
from sandlock_proxy import HttpEvent
from sandlock_runtime.web_events import event_of


def told(verdict: str = "denied", path: str = "/a", **more: object) -> HttpEvent:
    fields = {"method": "GET", "scheme": "http", "host": "a.org", "port": 80, "rule": "", "status": 403, "reason": "no"}
    return HttpEvent(verdict=verdict, path=path, **{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdict", "kind"), [("allowed", "audit"), ("failed", "audit"), ("denied", "denied"), ("refused", "denied")]
)
def test_what_the_rules_refuse_is_a_denial_and_what_the_server_does_is_none(verdict: str, kind: str) -> None:
    event = event_of(told(verdict))
    assert (event.kind, event.syscall, event.errno, event.detail["verdict"]) == (kind, "http", 0, verdict)
    assert event.detail["endpoint"] == "GET http://a.org/a"


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({}, "GET a.org/a"),
        ({"port": 8080}, "GET a.org:8080/a"),
        ({"scheme": "https", "port": 443}, "GET a.org/a"),
        ({"scheme": "https", "port": 80}, "GET a.org:80/a"),
        ({"host": "2001:db8::1"}, "GET [2001:db8::1]/a"),
        ({"path": "/$(reboot);'`id`"}, "GET a.org/$(reboot);'`id`"),
    ],
)
def test_the_option_allows_this_request_and_is_one_word_of_a_shell(fields: dict[str, object], rule: str) -> None:
    flag = event_of(told(**fields)).detail["flag"]  # type: ignore[arg-type]
    words = shlex.split(str(flag))
    assert words == ["--http-allow", rule]
    Policy(http_allow=[words[1]])


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": "http.deny[0] * a.org/*"},  # a denial wins, whatever is allowed
        {"verdict": "refused"},
        {"path": "/a*"},  # as a rule it would allow more
        {"path": "/" + "a" * 300},
        {"host": "", "path": ""},
    ],
)
def test_where_no_rule_would_help_none_is_named(fields: dict[str, object]) -> None:
    assert "flag" not in event_of(told(**fields)).detail  # type: ignore[arg-type]
