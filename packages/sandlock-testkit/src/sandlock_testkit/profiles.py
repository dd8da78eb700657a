"""Hypothesis profiles that all suites share; nothing happens where Hypothesis is not installed."""

from __future__ import annotations

__all__ = ["register_profiles"]


def register_profiles() -> None:
    """Register `fuzz`: as many examples as an afternoon allows, chosen anew each time.

    Hypothesis takes its own `ci` profile (derandomized, without deadline) where the environment says CI.
    """
    try:
        from hypothesis import settings  # only some suites declare it
    except ImportError:
        return
    settings.register_profile("fuzz", max_examples=20_000, deadline=None, derandomize=False)
