"""The command `sandlock`: finds the verb, runs it, and turns its end into an exit status. LEAN."""

from __future__ import annotations

import os
import sys

from sandlock_cli.options import VERBS, UsageError

__all__ = ["dispatch", "main"]


def main() -> None:
    """Run the command line of this process, and end the process."""
    status = dispatch(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # nobody reads any more; there is nobody to tell either
            status = status or 1
    # Taking the interpreter apart takes a millisecond or two, and nothing is left that needs it: no thread of ours, no
    # buffer, no file. It is a tenth of what a short program costs here.
    os._exit(status)


def dispatch(words: list[str]) -> int:
    """Run the verb that `words` name, and return its exit status; whatever goes wrong is told on stderr."""
    try:
        verb, rest = _verb(words)
        name = f"sandlock_cli.{verb}"
        __import__(name)  # lazy: each verb pays for itself only
        status: int = sys.modules[name].main(rest)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame: each kind is told apart there
        from sandlock_cli.failure import tell  # lazy: only a failure pays for it

        return tell(error)
    return status


def _verb(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb and its words: `run` where there are options only, as in `sandlock -r /srv -- ls /srv`."""
    first = words[0] if words else "help"
    if first in VERBS:
        return first, words[1:]
    if first in ("-h", "--help"):
        return "help", words[1:]
    if first in ("-V", "--version"):
        return "version", words[1:]
    if not words:
        raise UsageError("what is to be done? The verbs are " + ", ".join(VERBS))
    if first[0:1] == "-":
        return "run", words
    from sandlock_policy.validate import closest  # lazy: only a mistake pays for it

    likely = closest(first, list(VERBS))
    run = f"to run the program, write: sandlock run -- {first}"
    raise UsageError(f"there is no verb {first}; {likely}{', or ' if likely else ''}{run}")
