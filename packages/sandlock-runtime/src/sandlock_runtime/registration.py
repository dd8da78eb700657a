"""Launching a run that has a name: it is listed until it ends, and what the supervisor told is kept for a while."""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock_runtime.audit import AuditLog, written_below
from sandlock_runtime.control import Control, socket_of
from sandlock_runtime.errors import ConfinementError
from sandlock_runtime.features import host_features
from sandlock_runtime.hooks import Hooks
from sandlock_runtime.launch import launch
from sandlock_runtime.listed_ports import note_port
from sandlock_runtime.masking import Masker, without_values
from sandlock_runtime.prepare import make_context, plan_for
from sandlock_runtime.registry import folders, is_private, new_entry, remove, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_notif import Event
    from sandlock_policy import Plan, Policy
    from sandlock_runtime.instead import Instead
    from sandlock_runtime.life import Life
    from sandlock_runtime.listed_ports import Ports
    from sandlock_runtime.prepare import Command
    from sandlock_runtime.result import Result
    from sandlock_runtime.streams import Stream

__all__ = ["launch_registered"]

_LOG_BYTES = 1 << 20  # of one run: the folder is in memory
_PORTS_S = 0.1  # a program that binds without end has its entry written so often, and no oftener


def launch_registered(
    policy: Policy,
    command: Command,
    *,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    keep: Sequence[int] = (),
    park: bool = False,
    hooks: Hooks | None = None,
    instead: Instead | None = None,
) -> tuple[Life, Plan]:
    """Launch a policy that has a name, and list the run until it ends; arguments and errors are those of `launch`.

    Where no folder can be used (read-only, not private, or writable by the program itself) it runs all the same, and
    is not listed.
    """
    context, _ = make_context(policy, command)
    desk = _Desk.open(policy, plan_for(policy, context, host_features()))
    if desk is None:
        return launch(
            policy, command, stdin=stdin, stdout=stdout, stderr=stderr, keep=keep, park=park, hooks=hooks,
            instead=instead,
        )  # fmt: skip
    hooks = (Hooks() if hooks is None else hooks).also_told(desk.hear, desk.log.note)
    try:
        desk.log.start(command)
        life, plan = launch(
            policy, command, stdin=stdin, stdout=stdout, stderr=stderr, keep=keep, park=park, hooks=hooks,
            instead=instead,
        )  # fmt: skip
    except BaseException as error:
        desk.log.fail(error)
        raise
    life.at_end = desk.leave
    try:
        desk.enter(life, command)
    except BaseException:  # nobody would have the life to end it
        life.kill()
        life.finish()
        raise
    return life, plan


class _Desk:
    """Where one run is listed: its entry, its log."""

    def __init__(self, policy: Policy, folder: str) -> None:
        self._policy = policy
        stem = f"{policy.name}.{os.urandom(8).hex()}"
        self._file = os.path.join(folder, f"{stem}.json")
        self.log = AuditLog(os.path.join(folder, f"{stem}.jsonl"), policy, max_bytes=_LOG_BYTES)
        self._ports: Ports = {}
        self._listing: Callable[[], None] | None = None
        self._due = False
        self._lock = allocate_lock()
        self._control: Control | None = None

    @classmethod
    def open(cls, policy: Policy, plan: Plan) -> _Desk | None:
        for folder in folders():
            if written_below(plan, folder):
                continue
            try:
                os.makedirs(folder, 0o700, exist_ok=True)
                if not is_private(folder):
                    continue
                sweep(folder)
                return cls(policy, folder)
            except (OSError, ConfinementError):  # EROFS, EACCES, ENOSPC, ...: the next one may do
                continue
        return None

    def enter(self, life: Life, command: Command) -> None:
        """List the run."""
        self.log.launched(life.pid, life.guard_pid, life.protections)
        known: dict[str, object] = {
            "started_s": time.time(),
            "cwd": os.getcwd(),
            "command": Masker(self._policy, os.environ).words([os.fsdecode(word) for word in command]),
            "policy": without_values(self._policy).to_toml(),
            "protections": {row.name: (row.state, row.layer) for row in life.protections},
            "log": self.log.path,
        }

        def write() -> None:
            ports = [[*inside, *outside] for inside, outside in list(self._ports.items())]
            new_entry(self._file, self._policy.name or "", life.pid, life.guard_pid, {**known, "ports": ports})

        with suppress(OSError):  # a run that nobody can have checkpointed from outside is better than none
            self._control = Control(socket_of(self._file), life, self._policy)
        with self._lock:
            self._listing = write
            write()

    def hear(self, event: Event) -> None:
        """Note what the run has bound; called in the supervisor's thread, whose loop writes it down, not too often."""
        self.log(event)
        if note_port(self._ports, event) and not self._due:
            from asyncio import get_running_loop  # lazy: it is there where a supervisor is

            self._due = True
            get_running_loop().call_later(_PORTS_S, self._list_ports)

    def _list_ports(self) -> None:
        self._due = False
        with self._lock:
            if self._listing is not None:
                self._listing()

    def leave(self, result: Result) -> None:
        """Take the run from the list; the log stays for a while."""
        self.log.end(result)
        with self._lock:
            self._listing = None
            remove(self._file)
        if self._control is not None:
            self._control.close()
