"""`sandlock inspect`: what is known of a run that has a name."""

from __future__ import annotations

import json
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import printable
from sandlock_cli.help import print_verb
from sandlock_cli.logs import print_log, read_events
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.run_timeline import timeline_of
from sandlock_cli.runs import find_run, port_words, run_record
from sandlock_cli.verbs import options_of

if TYPE_CHECKING:
    from sandlock_runtime.registry import Run

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Print it: 0, or 1 where there is no such run."""
    values, rest = parse(words, table(options_of("inspect")), "inspect")
    if values.get("help"):
        return print_verb("inspect")
    if len(rest) != 1:
        raise UsageError("inspect needs the name of one run", "inspect")
    run = find_run(rest[0])
    if run is None:
        return 1
    if values.get("html"):
        return print_log(run.log, run.name, {"html": True}, time.time())
    if values.get("toml"):
        sys.stdout.write(run.policy)
    elif values.get("json"):
        print(json.dumps({"schema": 1, **run_record(run), "policy": run.policy, "timeline": _timeline(run)}))
    else:
        print("\n".join(_lines(run)))
    return 0


def _timeline(run: Run) -> dict[str, Any] | None:
    """Return what the run did over time, None where its log cannot be read: it may just have ended."""
    try:
        return timeline_of(read_events(run.log), time.time())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _lines(run: Run) -> list[str]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_s))
    width = max([len(name) for name in run.protections], default=0)
    return [
        f"{run.name}: process {run.pid}, since {started}",
        f"  command  {printable(shlex.join(run.command))}",
        f"  in       {printable(run.cwd)}",
        f"  by       process {run.host}, guard {run.guard}",
        *([f"  ports    {', '.join(port_words(run))}"] if run.ports else []),
        *[f"  {name:<{width}}  {state} ({layer})" for name, (state, layer) in run.protections.items()],
        "",
        "# The policy; values of environment variables are left out",
        run.policy.rstrip("\n"),
    ]
