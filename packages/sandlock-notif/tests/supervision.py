"""What the tests of the supervisor share: a real program under a real filter, served by real handlers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from sandlock_arch import native
from sandlock_notif import (
    Dispatch,
    Event,
    HandlerTable,
    Listener,
    Processes,
    Services,
    Supervisor,
    Trap,
    filter_rules,
)
from sandlock_notif.deputies import Deputies
from sandlock_notif.dispatch import Handle
from sandlock_policy.seccomp.compile import compile_spec
from sandlock_policy.seccomp.rules import Condition, FilterSpec, Rule
from sandlock_sys import landlock, pidfd
from sandlock_sys.constants.seccomp import FilterFlag
from sandlock_sys.deputy import Deputy
from sandlock_sys.errors import SyscallError
from sandlock_sys.spawn import Spawned, SpawnError, SpawnRequest, spawn

__all__ = ["PYTHON", "Outcome", "Table", "supervise", "table"]

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
FLAGS = FilterFlag.NEW_LISTENER | FilterFlag.WAIT_KILLABLE_RECV
SCOPE_SIGNAL = 1 << 1  # LANDLOCK_SCOPE_SIGNAL, ABI 6
TIMEOUT_S = 30.0
Grants: TypeAlias = Sequence[tuple[bytes, int]]


@dataclass
class Table(HandlerTable):
    """A handler table of traps that a test writes down."""

    rows: tuple[Trap, ...]
    name: str = "test"

    def traps(self) -> Sequence[Trap]:
        return self.rows


@dataclass
class Outcome:
    """What became of the program: its exit code (or minus a signal), its output, and what the supervisor told."""

    code: int = 0
    output: bytes = b""
    events: list[Event] = field(default_factory=list)
    supervisor: Supervisor | None = None


def table(call: str, handle: Handle, *conditions: Condition) -> Table:
    """A table of one trap."""
    return Table((Trap(call, handle, "a test asks", conditions),))


def ruleset_of(grants: Grants | None) -> int:
    """A ruleset that grants `(path, LANDLOCK_ACCESS_FS_* bits)` alone, with the signal scope; -1 without Landlock."""
    abi = landlock.abi_version()
    scope = SCOPE_SIGNAL if abi >= 6 else 0
    handled = 0 if grants is None else (1 << {0: 0, 1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    if not scope and not handled:
        return -1
    ruleset = landlock.create_ruleset(handled, 0, scope)
    landlock.add_paths(ruleset, [(path, access & handled) for path, access in grants or ()])
    return ruleset


def launch(
    argv: Sequence[str],
    tables: Sequence[HandlerTable],
    stdout: int,
    rules: Sequence[Rule],
    grants: Grants | None = None,
    cwd: str = "",
) -> Spawned:
    words = [os.fsencode(word) for word in argv]
    request = SpawnRequest(words, [words[0]], [b"PATH=/usr/bin:/bin"])
    request.stdio = (request.stdio[0], stdout, 2)
    request.filter = compile_spec(native(), FilterSpec((*filter_rules(tables), *rules)))
    request.filter_flags = FLAGS
    request.park = True
    if cwd:
        request.cwd = os.fsencode(cwd)
    rulesets = [ruleset_of(None), ruleset_of(grants)]
    if rulesets[0] >= 0:
        request.guard_ruleset, request.scoped = rulesets[0], True
    if rulesets[1] >= 0:
        request.ruleset = rulesets[1]
    try:
        return spawn(request)
    finally:
        for ruleset in rulesets:
            if ruleset >= 0:
                os.close(ruleset)


def take_listener(spawned: Spawned) -> int:
    process = pidfd.open_pidfd(spawned.pid)
    try:
        return pidfd.getfd(process, spawned.listener)
    finally:
        os.close(process)


async def serve(
    argv: Sequence[str],
    tables: Sequence[HandlerTable],
    rules: Sequence[Rule] = (),
    while_running: Callable[[Supervisor, Spawned], object] | None = None,
    grants: Grants | None = None,
    cwd: str = "",
) -> Outcome:
    """Run `argv` with these tables to its end. With `grants` it is in a Landlock domain, and has deputies there."""
    outcome = Outcome()
    reader, writer = os.pipe()
    spawned = launch(argv, tables, writer, rules, grants, cwd)
    os.close(writer)
    loop = asyncio.get_running_loop()

    def confine(deputy: Deputy) -> None:
        ruleset = ruleset_of(grants)
        if ruleset >= 0:
            try:
                deputy.restrict_self(ruleset)
            finally:
                os.close(ruleset)

    try:
        processes = Processes(loop, root=spawned.guard.pid)
        listener = Listener(take_listener(spawned))
        deputies = None if grants is None else Deputies(loop, listener.fileno(), confine)
        supervisor = Supervisor(
            listener,
            Dispatch(native(), tables),
            processes=processes,
            deputies=deputies,
            sink=outcome.events.append,
        )
        outcome.supervisor = supervisor
        services = Services(loop, native(), processes, deputies, supervisor.report, spawned.pid)
        for one in tables:
            one.attach(services)
        serving = asyncio.ensure_future(supervisor.serve())
        output = loop.run_in_executor(None, read_all, reader)
        await asyncio.to_thread(spawned.go)
        if while_running is not None:
            result = while_running(supervisor, spawned)
            if asyncio.iscoroutine(result):
                await result
        outcome.output = await output
        await serving
        for one in tables:
            await one.close()
        report = await asyncio.to_thread(spawned.guard.report)
        assert report is not None, "the guard was killed"
        outcome.code = os.waitstatus_to_exitcode(report.status)
    finally:
        with suppress(SpawnError, SyscallError):
            spawned.guard.close()
        os.close(reader)
    return outcome


def read_all(fd: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as stream:
        return stream.read()


def supervise(
    argv: Sequence[str],
    *tables: HandlerTable,
    rules: Sequence[Rule] = (),
    while_running: Callable[[Supervisor, Spawned], object] | None = None,
    grants: Grants | None = None,
    cwd: str = "",
    timeout_s: float = TIMEOUT_S,
) -> Outcome:
    """Run `argv` under the tables, in a loop of its own, within `timeout_s`."""
    return asyncio.run(asyncio.wait_for(serve(argv, tables, rules, while_running, grants, cwd), timeout_s))
