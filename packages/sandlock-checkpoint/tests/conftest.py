"""Make the modules beside the tests importable: pytest's importlib mode adds no folder to sys.path."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from process_lab import Lab, lab_folder


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """Where compiled programs are kept for the session."""
    with lab_folder() as folder:
        yield folder


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A place to start, capture and restore programs; nothing outlives it."""
    lab = Lab(tmp_path)
    yield lab
    lab.close()
