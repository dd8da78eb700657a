"""Taking and answering notifications with no step into Python but for the handlers.

    turn = Turn(listener, audit_arch, MyRequest, GO, Value, ())
    turn.begin(64, 5_000_000)
    found = turn.serve(handlers, owner, 0, 30_000)

The interpreter is kept while a call is answered and the next one waited for, for 30 us at most: a host that computes in
another thread would otherwise have it for a switch interval in between, once for each call.
"""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

from sandlock_sys import _ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Notified", "Turn"]

_NAME = "sandlock_sys._turn"


def _load() -> ModuleType:
    """Make the second module of the extension: it is found by the name of its function in the one shared object."""
    spec = spec_from_loader(_NAME, ExtensionFileLoader(_NAME, _ffi.__file__))
    if spec is None or spec.loader is None:
        raise ImportError(f"no loader for {_NAME}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.modules[_NAME] = _load()
from sandlock_sys._turn import Notified, Turn  # noqa: E402  # it is there now
