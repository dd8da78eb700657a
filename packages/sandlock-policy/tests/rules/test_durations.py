"""Durations are seconds, or numbers with a unit."""

from __future__ import annotations

import pytest

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.durations import parse_duration, parse_duration_or_zero


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(10, 10.0), (0.5, 0.5), ("10", 10.0), ("500ms", 0.5), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86400.0)],
)
def test_each_spelling_is_understood(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "1w", "1 s", "-1", "1e3", "1.2.3", ".", "nan", "inf", float("nan"), float("inf"), -1, True, None]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(RuleError):
        parse_duration(text)


@pytest.mark.parametrize("text", ["-1", "s", "x10", " 5"])
def test_text_that_does_not_begin_with_a_number_is_no_question_of_units(text: str) -> None:
    with pytest.raises(RuleError, match="is not a duration") as caught:
        parse_duration(text)
    assert repr(text) in caught.value.reason


def test_zero_is_a_grace_but_not_a_limit() -> None:
    assert parse_duration_or_zero("0") == 0.0
    with pytest.raises(RuleError, match="zero is not a duration") as caught:
        parse_duration("0")
    assert caught.value.remedy == "leave the field out for no limit"
