"""Generated files: names of the view whose content is made when they are opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sandlock_notif.fs.view import View
    from sandlock_notif.processes import Process

__all__ = ["Generate", "VirtualFile", "VirtualLayer"]

Generate: TypeAlias = "Callable[[Process], bytes]"


@dataclass(frozen=True, slots=True)
class VirtualFile:
    """One generated file, or a generated symlink.

    Attributes:
        generate: gives the content for a process that opens it.
        link: gives where the symlink points, for a process; None for a file.

    """

    generate: Generate | None = None
    link: Generate | None = None


class VirtualLayer:
    """The generated files of a view."""

    def __init__(self) -> None:
        self._files: dict[bytes, VirtualFile] = {}

    def attach(self, view: View) -> None:
        """Put the names into the view."""
        _ = view
