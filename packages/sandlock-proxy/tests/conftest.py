"""interception.py, beside this, is shared by the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # pytest's importlib mode adds no folder

from interception import World


@pytest.fixture
def world() -> Iterator[World]:
    """Give a loop thread with a proxy and a server, both made on demand."""
    made = World()
    yield made
    made.close()
