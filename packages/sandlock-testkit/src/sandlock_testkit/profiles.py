"""Hypothesis profiles that all suites share; nothing happens where Hypothesis is not installed."""

from __future__ import annotations

__all__ = ["examples", "register_profiles"]

_FUZZ = 20_000


def register_profiles() -> None:
    """Register `fuzz`: as many examples as an afternoon allows, chosen anew each time. No profile has a deadline.

    Hypothesis takes its own `ci` profile (derandomized) where the environment says CI.
    """
    try:
        from hypothesis import settings  # only some suites declare it
    except ImportError:
        return
    settings.register_profile("fuzz", max_examples=_FUZZ, deadline=None, derandomize=False)
    if settings().deadline is not None:  # a machine with other work says nothing about the code
        settings.register_profile("patient", deadline=None)
        settings.load_profile("patient")


def examples(ordinary: int) -> int:
    """How many examples a test takes that costs more than most: `ordinary`, or all that the profile `fuzz` wants."""
    from hypothesis import settings  # only some suites declare it

    wanted: int = settings().max_examples
    return wanted if wanted >= _FUZZ else ordinary
