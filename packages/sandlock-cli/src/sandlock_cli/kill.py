"""`sandlock kill`: end runs that have a name, with everything they have started."""

from __future__ import annotations

from sandlock_cli.failure import warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.runs import find_run, find_runs
from sandlock_cli.verbs import options_of
from sandlock_runtime.errors import NotRunningError, SandboxError
from sandlock_runtime.registry import kill_run

__all__ = ["main"]


def main(words: list[str]) -> int:
    """End them: 0, or 1 where one is not there or does not end."""
    values, rest = parse(words, table(options_of("kill")), "kill")
    if values.get("help"):
        return print_verb("kill")
    if not rest:
        raise UsageError("kill needs the name of a run", "kill")
    return max([_kill(word, every=bool(values.get("all"))) for word in rest])


def _kill(word: str, *, every: bool) -> int:
    if every:
        found = find_runs(word)
    else:
        one = find_run(word)
        found = (one,) if one is not None else ()
    status = 0 if found else 1
    for run in found:
        try:
            kill_run(run)
        except NotRunningError:
            continue  # it has ended by itself meanwhile, which is what was wanted
        except SandboxError as error:
            warn(str(error))
            status = 1
    return status
