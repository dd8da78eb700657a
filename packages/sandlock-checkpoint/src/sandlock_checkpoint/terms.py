"""What a capture is asked for, and what it answers about what it cannot do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Leave", "Scope", "Unsupported"]


class Scope(enum.Enum):
    """How much is captured."""

    PROCESS = "process"  # one process with all its threads
    TREE = "tree"  # it, and every process below it


class Leave(enum.Enum):
    """What becomes of the processes when the capture is closed. A capture that fails always leaves them running."""

    RUNNING = "running"
    STOPPED = "stopped"  # with SIGSTOP; SIGCONT lets it run on
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Something that cannot be captured, or not be restored here; `allow` takes it on by `name` or by `kind`.

    Attributes:
        name: which one: "fd:7", "mapping:7f0000000000", "timer:3"; with "PID/" before it for other processes than
            the first.
        kind: what it is: "tcp_socket", "tty", "device", "shared_with_outsider", "io_uring", "inotify", ...
        reason: a sentence for people, with what to do about it where something can be done.

    """

    name: str
    kind: str
    reason: str
