"""The marker `needs` skips with a sentence, and fails where the feature was promised."""

from __future__ import annotations

import pytest

from sandlock_testkit.features import PROBES, UnknownFeatureError, level
from sandlock_testkit.needs import missing_sentence, promises

pytest_plugins = ["pytester"]

PRESENT = "@pytest.mark.needs('command:sh')"
ABSENT = "@pytest.mark.needs('command:no-such-program')"


def outcome(pytester: pytest.Pytester, decorator: str) -> tuple[dict[str, int], str]:
    pytester.makepyfile(f"import pytest\n{decorator}\ndef test_it(): pass\n")
    result = pytester.runpytest_subprocess("-ra", "-p", "sandlock_testkit.plugin", "-p", "no:cacheprovider")
    return result.parseoutcomes(), result.stdout.str()


def test_a_present_feature_runs(pytester: pytest.Pytester) -> None:
    assert outcome(pytester, PRESENT)[0] == {"passed": 1}


def test_an_absent_feature_skips_and_says_which(pytester: pytest.Pytester) -> None:
    counts, text = outcome(pytester, ABSENT)
    assert counts == {"skipped": 1}
    assert "this host has no command:no-such-program" in text


def test_a_promised_feature_that_is_absent_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDLOCK_REQUIRE", "landlock=1, command:no-such-program")
    counts, text = outcome(pytester, ABSENT)
    assert counts in ({"errors": 1}, {"failed": 1})
    assert "SANDLOCK_REQUIRE promised it" in text


def test_a_level_beyond_the_promise_still_skips(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDLOCK_REQUIRE", "command:sh=1")
    counts, text = outcome(pytester, "@pytest.mark.needs('command:sh', level=2)")
    assert counts == {"skipped": 1}
    assert "at level 1, and level 2 is needed" in text


def test_a_misspelt_feature_is_an_error_and_no_skip(pytester: pytest.Pytester) -> None:
    counts, text = outcome(pytester, "@pytest.mark.needs('landlok')")
    assert "skipped" not in counts
    assert "no probe for 'landlok'" in text


def test_a_misspelt_keyword_is_an_error_and_no_skip(pytester: pytest.Pytester) -> None:
    counts, _ = outcome(pytester, "@pytest.mark.needs('landlock', abi=4)")
    assert "skipped" not in counts


def test_a_package_of_pythons_can_be_needed() -> None:
    assert (level("module:pytest"), level("module:no_such_package")) == (1, 0)


def test_promises_have_levels() -> None:
    assert promises({"SANDLOCK_REQUIRE": "landlock=7, seccomp,"}) == {"landlock": 7, "seccomp": 1}
    assert promises({}) == {}


@pytest.mark.parametrize(
    ("needed", "found", "sentence"),
    [
        (1, 1, None),
        (4, 7, None),
        (1, 0, "this host has no landlock"),
        (4, 0, "this host has no landlock (level 4 is needed)"),
        (8, 7, "this host has landlock at level 7, and level 8 is needed"),
    ],
)
def test_the_sentence_names_both_levels(needed: int, found: int, sentence: str | None) -> None:
    assert missing_sentence("landlock", needed, found) == sentence


@pytest.mark.parametrize("feature", sorted(PROBES))
def test_every_probe_answers_with_a_level(feature: str) -> None:
    assert level(feature) >= 0


def test_exactly_one_of_root_and_ordinary_user_is_here() -> None:
    assert level("root") + level("ordinary_user") == 1


def test_an_unknown_feature_names_the_known_ones() -> None:
    with pytest.raises(UnknownFeatureError, match="landlock"):
        level("landlok")
