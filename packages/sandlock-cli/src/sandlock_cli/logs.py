"""`sandlock logs`: what the supervisor told about a run that has a name, also after its end."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import printable, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.run_timeline import OVER_TIME
from sandlock_cli.verbs import options_of
from sandlock_runtime.registry import ended_logs, list_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main", "print_log", "read_events"]

_LOOK_S = 0.2  # how often a log that is followed is looked at


def main(words: list[str]) -> int:
    """Print the log of the run that lives, or else of the latest that has ended: 0, or 1 where there is none."""
    values, rest = parse(words, table(options_of("logs")), "logs")
    if values.get("help"):
        return print_verb("logs")
    if values.get("follow") and values.get("html"):
        raise UsageError("a page is of what has happened: give either --follow or --html", "logs")
    file = values.get("file")
    if len(rest) != (0 if file else 1):
        raise UsageError("logs needs the name of one run, or --file FILE", "logs")
    if file is not None:
        return print_log(file, os.path.basename(file), values)
    logs = [run.log for run in list_runs(rest[0])] or list(ended_logs(rest[0])[-1:])
    if not logs:
        warn(f"there is no log of a run named {rest[0]}")
        return 1
    if len(logs) > 1:
        pids = ", ".join(str(run.pid) for run in list_runs(rest[0]))
        warn(f"{len(logs)} runs are named {rest[0]}; name one by its pid: {pids}")
        return 1
    return print_log(logs[0], rest[0], values)


def print_log(path: str, name: str, values: dict[str, Any], until: float = 0.0) -> int:
    """Print the record in the file `path`, as the options want it; 1 where it is none, which is told.

    A page of a run that lives reaches to `until`, seconds since 1970.
    """
    try:
        if values.get("html"):
            from sandlock_cli.run_page import page  # lazy: few look at pages

            sys.stdout.write(page(name, read_events(path), until))
            return 0
        for line in _lines(path, follow=bool(values.get("follow"))):
            event = _event(line)
            if event["event"] in OVER_TIME and not values.get("json"):
                continue  # they are for pictures
            sys.stdout.write(line if values.get("json") else _text(event))
            sys.stdout.flush()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        warn(f"{path} is no record of a run: --audit writes one")
        return 1
    return 0


def read_events(path: str) -> list[dict[str, Any]]:
    """Return the events of the record in the file `path`; ValueError where it is none."""
    return [_event(line) for line in _lines(path, follow=False)]


def _event(line: str) -> dict[str, Any]:
    """Return what a line of a record says; ValueError where it is none."""
    event = json.loads(line)
    if not isinstance(event, dict) or event.get("schema") != 1 or not isinstance(event.get("event"), str):
        raise ValueError(f"{line[:80]!r} is no event")
    return event


def _lines(path: str, *, follow: bool) -> Iterator[str]:
    """Yield the whole lines of a log; with `follow` those too that come until its run has ended."""
    with open(path, encoding="ascii") as file:
        part = ""
        while True:
            line = file.readline()
            part += line
            if part.endswith("\n"):
                yield part
                part = ""
            elif not line:
                if not follow or all(run.log != path for run in list_runs()):
                    yield from (rest for rest in file if rest.endswith("\n"))
                    return
                time.sleep(_LOOK_S)


def _text(event: dict[str, Any]) -> str:
    """Return one line for a person."""
    kind = event["event"]
    if kind == "start":
        said = shlex.join(event["command"])
    elif kind == "launched":
        said = f"process {event['pid']}"
    elif kind == "end":
        how = f"signal {event['signal']}" if event["signal"] is not None else f"exit code {event['exit_code']}"
        said = f"{event['reason']}, {how}, {event['usage']['wall_s']:.3f} s"
        said += f"; {event['error']}" if event["error"] else ""
        said += f"; {event['lost']} events are not in this log" if event["lost"] else ""
    elif kind == "failed":
        said = event["error"]
    else:
        detail = " ".join([f"{name}={value!r}" for name, value in event["detail"].items()])
        said = " ".join([word for word in (event["syscall"], event["error"], event["reason"], detail) if word])
    return f"{event['time']} {kind:<8} {printable(said)}\n"
