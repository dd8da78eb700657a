"""pytest plugin shared by the test suites of sandlock; never published."""

from __future__ import annotations

from sandlock_testkit.identity import Identity
from sandlock_testkit.leaks import Holdings
from sandlock_testkit.outsider import Outsider
from sandlock_testkit.tree import Canary, Tree

__all__ = ["Canary", "Holdings", "Identity", "Outsider", "Tree"]
