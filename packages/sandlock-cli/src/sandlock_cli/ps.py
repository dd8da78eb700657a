"""`sandlock ps`: the runs of this user that have a name."""

from __future__ import annotations

import json
import shlex
import time

from sandlock_cli.failure import printable
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.runs import port_words, run_record
from sandlock_cli.verbs import options_of
from sandlock_runtime.registry import list_runs

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Print the runs, the oldest first."""
    values, rest = parse(words, table(options_of("ps")), "ps")
    if values.get("help"):
        return print_verb("ps")
    if rest:
        raise UsageError(f"ps takes no {rest[0]}", "ps")
    runs = list_runs()
    if values.get("json"):
        print(json.dumps({"schema": 1, "runs": [run_record(run) for run in runs]}))
        return 0
    width = max([len(run.name) for run in runs], default=0)
    ports = [",".join(port_words(run)) for run in runs]
    beside = max([len(each) for each in ports], default=0)
    for run, each in zip(runs, ports, strict=True):
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_s))
        bound = f"  {each:<{beside}}" if beside else ""
        print(f"{run.name:<{width}}  {run.pid:>7}  {started}{bound}  {printable(shlex.join(run.command))}")
    return 0
