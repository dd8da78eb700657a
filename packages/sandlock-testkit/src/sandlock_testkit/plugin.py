"""The pytest plugin: the marker `needs` and the fixtures that all suites of sandlock share."""

from __future__ import annotations

import signal

from sandlock_testkit.compiling import compile_c
from sandlock_testkit.identity import as_user
from sandlock_testkit.leaks import leaks
from sandlock_testkit.needs import pytest_configure, pytest_runtest_setup
from sandlock_testkit.outsider import outsider
from sandlock_testkit.profiles import register_profiles
from sandlock_testkit.tree import canary, tree

__all__ = [
    "as_user",
    "canary",
    "compile_c",
    "leaks",
    "outsider",
    "pytest_configure",
    "pytest_runtest_setup",
    "tree",
]

register_profiles()

# What is ignored stays so in every child (nohup, a job in the background); the tests send these and want them heard.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
