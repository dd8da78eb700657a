"""Make the modules beside the tests importable: pytest's importlib mode adds no folder to sys.path."""

from __future__ import annotations

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from arch_emulator import Machine

import sandlock_arch
from sandlock_arch import Architecture


@pytest.fixture(params=sandlock_arch.names())
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """Each architecture in turn."""
    name: str = request.param
    return sandlock_arch.get(name)


@pytest.fixture
def machine(architecture: Architecture) -> Machine:
    """An emulated processor of each architecture in turn."""
    return Machine(architecture)
