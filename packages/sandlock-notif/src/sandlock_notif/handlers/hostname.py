"""uname with a name of the sandbox's own, where no UTS namespace gives it one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sandlock_notif import memory
from sandlock_notif.action import Action, Value
from sandlock_notif.dispatch import HandlerTable, Trap

if TYPE_CHECKING:
    from sandlock_notif.request import Request

__all__ = ["HostnameTable", "utsname"]

_FIELD = 65  # __NEW_UTS_LEN + 1, linux/utsname.h


class HostnameTable(HandlerTable):
    """Answers uname(2) with `name` as the node's; all else is the kernel's."""

    name = "hostname"
    while_parked = False

    def __init__(self, hostname: str) -> None:
        self._answer = utsname(os.fsencode(hostname))

    def traps(self) -> Sequence[Trap]:
        """Return the one call; sethostname is denied."""
        return (Trap("uname", self._uname, "name: the node's name is the sandbox's", (), "memory"),)

    def _uname(self, request: Request) -> Action:
        memory.write(request, request.args[0], self._answer)
        return Value(0)


def utsname(hostname: bytes) -> bytes:
    """Return struct new_utsname of this kernel with another node name and no domain (linux/utsname.h)."""
    real = os.uname()
    fields = (real.sysname, hostname, real.release, real.version, real.machine, b"(none)")
    return b"".join(os.fsencode(field)[: _FIELD - 1].ljust(_FIELD, b"\0") for field in fields)
