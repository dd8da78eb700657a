"""The marker `needs(feature, level=1)`: skip with a sentence, or fail where the machine promised the feature.

`SANDLOCK_REQUIRE` is the promise: a comma-separated list of `feature` or `feature=level`. Without it a missing feature
skips; with it a kernel that silently lost Landlock turns CI red instead of green and empty.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from sandlock_testkit.features import level

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["lacks", "missing_sentence", "promises", "pytest_configure", "pytest_runtest_setup"]


def promises(environment: Mapping[str, str]) -> dict[str, int]:
    """The levels that `SANDLOCK_REQUIRE` promises, by feature."""
    pairs = (entry.strip().partition("=") for entry in environment.get("SANDLOCK_REQUIRE", "").split(","))
    return {name: int(number or 1) for name, _, number in pairs if name}


def missing_sentence(feature: str, needed: int, found: int) -> str | None:
    """Why a test that needs `feature` at `needed` cannot run on a host that has it at `found`; None if it can."""
    if found >= needed:
        return None
    if found == 0:
        return f"this host has no {feature}" + (f" (level {needed} is needed)" if needed > 1 else "")
    return f"this host has {feature} at level {found}, and level {needed} is needed"


def lacks(feature: str, sentence: str) -> NoReturn:
    """Skip the running test with a sentence, or fail it where the machine promised the feature that it lacks."""
    if feature in promises(os.environ):
        pytest.fail(f"{sentence}, but SANDLOCK_REQUIRE promised {feature}", pytrace=False)
    pytest.skip(sentence)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "needs(feature, level=1): run only where the host has the feature")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail the test before its fixtures are made."""
    promised = promises(os.environ)
    for mark in item.iter_markers("needs"):
        feature, needed = _arguments(*mark.args, **mark.kwargs)
        sentence = missing_sentence(feature, needed, level(feature))
        if sentence is None:
            continue
        if promised.get(feature, 0) >= needed:
            pytest.fail(f"{sentence}, but SANDLOCK_REQUIRE promised it", pytrace=False)
        pytest.skip(sentence)


def _arguments(feature: str, level: int = 1) -> tuple[str, int]:
    """Give the marker a signature, so that a misspelt keyword is an error."""
    return feature, level
