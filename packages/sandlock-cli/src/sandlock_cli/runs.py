"""Runs that have a name, as the verbs find and show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import warn
from sandlock_policy.validate import closest
from sandlock_runtime.registry import list_runs

if TYPE_CHECKING:
    from sandlock_runtime.registry import Run

__all__ = ["find_run", "find_runs", "port_words", "run_record"]


def find_runs(word: str) -> tuple[Run, ...]:
    """Return the runs with this name or pid; where there is none, that is told."""
    found = list_runs(word)
    if not found:
        likely = closest(word, sorted({run.name for run in list_runs()}))
        warn(f"no run named {word} is alive" + (f"; {likely}" if likely else "; `sandlock ps` lists those that are"))
    return found


def find_run(word: str) -> Run | None:
    """Return the one run with this name or pid; None where there is none or several, which is told."""
    found = find_runs(word)
    if len(found) > 1:
        warn(f"{len(found)} runs are named {word}; name one by its pid: {', '.join(str(run.pid) for run in found)}")
        return None
    return found[0] if found else None


def port_words(run: Run) -> list[str]:
    """Return the ports of `run`, as `8080`, or `8080->41234` where the real one is another; UDP ports say so."""
    return [
        f"{inside if inside == outside else f'{inside}->{outside}'}{'/udp' if kind == 'udp' else ''}"
        for kind, inside, outside in run.ports
    ]


def run_record(run: Run) -> dict[str, Any]:
    """Return what is known of `run`, for JSON."""
    return {
        "name": run.name,
        "pid": run.pid,
        "guard": run.guard,
        "host": run.host,
        "started_s": run.started_s,
        "cwd": run.cwd,
        "command": list(run.command),
        "ports": [{"protocol": kind, "inside": inside, "outside": outside} for kind, inside, outside in run.ports],
        "protections": {name: {"state": state, "layer": layer} for name, (state, layer) in run.protections.items()},
    }
