"""Let the tests run below a kernel whose Landlock is older than a sandbox asks for; put first in PYTHONPATH.

A policy that names nothing in `allow_degraded` is refused there, which is the point of a sandbox and the end of nearly
every test. With this folder in PYTHONPATH every Python process of a run gives up, by name, what the running kernel
itself lacks, as if each policy had said so. What a test takes away on top of that (a pretended ABI) is refused as ever.

It is imported by every interpreter of a run, and some tests look at what a run imports: nothing is imported here that
the interpreter has not imported already, importlib.machinery aside.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import ModuleType
    from typing import Any, SupportsIndex

__all__ = ["Agreeing", "AgreeingFinder", "KeepingFirst"]

_TARGET = "sandlock_policy.protect"  # decides what is missing; looked for when somebody imports it, not before


def _missing_here() -> frozenset[str]:
    """The protections that the running kernel's Landlock, or the older one that is pretended, does not have."""
    from sandlock_sys import landlock

    since = {
        "fs_refer": 2,
        "fs_truncate": 3,
        "net_tcp": 4,
        "fs_ioctl_dev": 5,
        "scope_abstract": 6,
        "scope_signal": 6,
    }
    abi = landlock.abi_version()
    pretended = os.environ.get("SANDLOCK_LANDLOCK_ABI", "")
    abi = min(abi, int(pretended)) if pretended.isdecimal() else abi
    return frozenset(name for name, first in since.items() if abi < first)


class Agreeing:
    """Loads the module as its own loader does, and then lets `lack` agree."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader itself."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run it, and put our `lack` before its own."""
        self._loader.exec_module(module)
        protections = vars(module)["Protections"]
        refuse, missing = protections.lack, _missing_here()

        def lack(self: Any, name: str, layer: str, reason: str) -> None:
            if name in missing:
                self.row(name, "degraded", layer, reason)
            else:
                refuse(self, name, layer, reason)

        protections.lack = lack


class AgreeingFinder:
    """Finds the one module that decides about missing layers."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for that module only."""
        if fullname != _TARGET:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Agreeing(spec.loader)  # type: ignore[assignment] # importlib.abc would import typing
        return spec


class KeepingFirst(list):  # type: ignore[type-arg] # evaluated at run time, where typing is not imported
    """A list whose first element stays the first: the command puts a finder of its own before all others."""

    def insert(self, index: SupportsIndex, item: Any) -> None:
        """As a list does, but never before the first."""
        super().insert(max(1, index.__index__()), item)


sys.meta_path = KeepingFirst([AgreeingFinder(), *sys.meta_path])
