"""Make the modules beside the tests importable: pytest's importlib mode adds no folder to sys.path."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from cow_lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A real tree with a bit of everything, and a storage beside it."""
    made = Lab(tmp_path)
    yield made
    made.close()
