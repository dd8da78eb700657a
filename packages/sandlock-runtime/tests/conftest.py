"""Let the tests import what they share."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))  # pytest's importlib mode adds no folder: runtime_lab.py is beside this
