"""What a supervisor does while its sandbox is restored: its tracers stay out of the way of the restore's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_notif.handlers.exec import ExecTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandlock_notif import HandlerTable

__all__ = ["begin_restore", "end_restore"]


async def begin_restore(tables: Sequence[HandlerTable]) -> None:
    """Let execs pass unseen from now on, once those that are followed are over."""
    for table in tables:
        if isinstance(table, ExecTable):
            await table.gate.shut()
            table.passing = True
            await table.gate.open()


def end_restore(tables: Sequence[HandlerTable], pids: Iterable[int]) -> None:
    """Look at the images of processes that the calling thread has stopped, and at every exec from now on.

    Raises:
        NotifError: one of them may not run.

    """
    for table in tables:
        if isinstance(table, ExecTable):
            for pid in pids:
                table.adopt(pid)
            table.passing = False
