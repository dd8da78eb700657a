"""Functions and arguments as bytes for a confined interpreter of ours."""

from __future__ import annotations

import pickle
from importlib import import_module

__all__ = ["pickled"]


def pickled(value: object) -> bytes:
    """Pickle `value`; by cloudpickle, where that is installed, what the standard library cannot.

    These are lambdas, functions defined in others or typed at a prompt; cloudpickle is imported inside then, too.
    """
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        try:
            clouds = import_module("cloudpickle")
        except ImportError:
            clouds = None
        if clouds is None:
            raise
        data: bytes = clouds.dumps(value)
        return data
