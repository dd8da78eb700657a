"""supervision.py, beside this, is shared by the tests."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))  # pytest's importlib mode adds no folder
