"""What the tests of launch, guard and deputy share: a request with its rulesets, a child's output, who is alive."""

from __future__ import annotations

import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from sandlock_sys import landlock
from sandlock_sys.spawn import Spawned, SpawnRequest, spawn

__all__ = [
    "alive_with", "deny", "fields_of", "has_ended", "host", "launched", "new_mark", "new_request", "output_of",
    "wait_until",
]  # fmt: skip

SCOPE_SIGNAL = 1 << 1  # LANDLOCK_SCOPE_SIGNAL, ABI 6
PATH = b"PATH=/usr/bin:/bin"
Launcher = Callable[[SpawnRequest], Spawned]


@contextmanager
def new_request(argv: Sequence[str | bytes], *, scoped: bool = True, **fields: Any) -> Iterator[SpawnRequest]:
    """A request for `argv`, looked for in /usr/bin and /bin, in the domain of the signal scope if `scoped`."""
    words = [os.fsencode(word) for word in argv]
    folders = [b""] if b"/" in words[0] else [b"/usr/bin/", b"/bin/"]
    request = SpawnRequest(words, [folder + words[0] for folder in folders], [PATH])
    with ExitStack() as stack:
        if scoped and landlock.abi_version() >= 6:
            request.guard_ruleset = landlock.create_ruleset(0, 0, SCOPE_SIGNAL)
            stack.callback(os.close, request.guard_ruleset)
            # Nested, as every sandbox is: a child in the guard's own domain could signal it.
            request.ruleset = landlock.create_ruleset(0, 0, SCOPE_SIGNAL)
            stack.callback(os.close, request.ruleset)
            request.scoped = True
        for name, value in fields.items():
            setattr(request, name, value)
        yield request


@contextmanager
def launched(
    argv: Sequence[str | bytes], *, scoped: bool = True, by: Launcher = spawn, **fields: Any
) -> Iterator[Spawned]:
    """The running (or parked) child; what is left of it ends with the block."""
    with new_request(argv, scoped=scoped, **fields) as request:
        spawned = by(request)
    try:
        yield spawned
    finally:
        spawned.guard.close()


def output_of(argv: Sequence[str | bytes], **fields: Any) -> bytes:
    """What `argv` writes to its standard output; it must exit with 0."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        try:
            spawning = launched(argv, stdio=(0, writer, 2), **fields)
            with spawning as spawned:
                os.close(writer)
                writer = -1
                text = stream.read()
                report = spawned.guard.report()
                assert report is not None, "the guard was killed"
                assert report.status == 0, f"wait status {report.status:#x}: {text!r}"
        finally:
            if writer >= 0:
                os.close(writer)
    return text


def fields_of(status: bytes) -> dict[str, str]:
    """The lines of /proc/PID/status by name."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.decode().splitlines())}


def new_mark() -> str:
    """A number for `sleep 600 MARK` that nobody else has among its arguments."""
    return f"0.{random.getrandbits(60):020}"


def alive_with(mark: str) -> list[int]:
    """Processes, zombies left out, that have `mark` among their arguments."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if mark.encode() in file.read() and int(name) != os.getpid():
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether `holds` becomes true in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def has_ended(spawned: Spawned, seconds: float = 5.0) -> bool:
    """Whether the guard ends in time."""
    return bool(select.select([spawned.guard], [], [], seconds)[0])


def host(script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Another Python with everything of this module, as the host of sandboxes; it runs `script`, output in a pipe."""
    options = {"stdout": subprocess.PIPE, "text": True} | options
    setting = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    script = f"import os, sys, signal, time, threading\nfrom launch_lab import *\n{script}"
    return subprocess.Popen([sys.executable, "-c", script, *arguments], env=setting, **options)


def deny(number: int, error: int, first: int | None = None) -> bytes:
    """A filter that answers call `number`, with `first` as its first argument where that is given, with `error`."""
    tests = [(0x15, 0, 1, number)] if first is None else [(0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, first)]
    program = [(0x20, 0, 0, 0), *tests, (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
