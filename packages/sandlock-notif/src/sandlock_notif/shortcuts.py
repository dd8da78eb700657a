"""What is served without the interpreter: the calls that the handler tables gave a `row`, within what they say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_notif.deputies import BUSY_S
from sandlock_sys.shortcut import Shortcut

if TYPE_CHECKING:
    from sandlock_notif.dispatch import Dispatch
    from sandlock_notif.listener import Listener

__all__ = ["judge", "shortcut_of"]


def shortcut_of(listener: Listener, dispatch: Dispatch, wait_ns: int) -> Shortcut | None:
    """Return a shortcut for a listener, which serves nothing yet; None where no table has a call for it."""
    if not dispatch.rows:
        return None
    return Shortcut(
        listener.fileno(),
        dispatch.arch.audit_arch,
        dispatch.rows,
        wait_ns=wait_ns,
        blocked_ns=int(BUSY_S * 1e9),
        privileged=os.geteuid() == 0,
    )


def judge(shortcut: Shortcut, dispatch: Dispatch) -> None:
    """Let the tables say anew what calls must not touch.

    Where one of them fails, nothing is served until all have said it: what they said before may be too little by now.
    """
    shortcut.fresh()
    try:
        for table in dispatch.tables:
            table.shorten(shortcut)
    except BaseException:
        shortcut.forget()
        raise
