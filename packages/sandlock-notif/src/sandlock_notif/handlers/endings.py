"""Seeing every process that ends by itself, for the record of a run. Decides nothing: every call goes on.

Without it a process that lives for less than a sample, and asks nothing, is in no record. The call has no pointer, and
what it says is not looked at. Only where a record is kept and a supervisor is there anyway is the call asked about: one
notification for each process, beside the hundred times as dear fork.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock_notif.dispatch import HandlerTable, Services, Trap
from sandlock_notif.errors import VanishedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_notif.processes import Process, Processes
    from sandlock_notif.request import Request

__all__ = ["Endings"]


class Endings(HandlerTable):
    """Enters each process into the index of the sandbox before it ends.

    Attributes:
        look: told of the process while it still runs its program; None where nobody looks.

    """

    name = "endings"
    while_parked = False

    def __init__(self) -> None:
        self.look: Callable[[Process], None] | None = None
        self._processes: Processes | None = None

    def traps(self) -> Sequence[Trap]:
        """Return the call by which a process ends, all its threads with it."""
        return [Trap("exit_group", self._note, "a process that was not seen before is noted in the record")]

    def attach(self, services: Services) -> None:
        """Remember whose processes they are."""
        self._processes = services.processes

    def _note(self, request: Request) -> None:
        if self._processes is None or self.look is None:
            return
        with suppress(VanishedError, OSError, ValueError):  # it ends in any case
            self.look(self._processes.of(request))
