"""Make the modules beside the tests importable: pytest's importlib mode adds no folder to sys.path."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
