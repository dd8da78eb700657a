"""What is told when the command cannot do what was asked, and the exit status that says so."""

from __future__ import annotations

import sys

from sandlock_cli.options import UsageError
from sandlock_policy.errors import PolicyError, Problem, SandlockError
from sandlock_policy.fields import FIELDS

__all__ = ["NOT_FOUND", "NOT_RUNNABLE", "NOT_SET_UP", "USAGE", "lines_of", "printable", "status_of", "tell", "warn"]

USAGE = 2  # the words cannot be understood, as with every GNU program
NOT_SET_UP = 125
NOT_RUNNABLE = 126
NOT_FOUND = 127
_INTERRUPTED = 130  # 128 + SIGINT

_FLAG_BY_PATH = {field.path: field.flags[-1] for field in FIELDS if field.flags}


def printable(text: str) -> str:
    """Return `text` with everything that a terminal would not show as it is (controls, bidi, bytes) escaped."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def warn(text: str) -> None:
    """Write one line to stderr, under the command's name."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"sandlock: {printable(text)}\n")
            sys.stderr.flush()
    except OSError:  # stderr is closed: nobody is there to be told
        return


def tell(error: BaseException) -> int:
    """Tell what went wrong, one line for each fault, and return the exit status."""
    status = status_of(error)
    if isinstance(error, KeyboardInterrupt):
        return status
    for line in lines_of(error):
        warn(line)
    if not isinstance(error, (UsageError, SandlockError, OSError)):
        import traceback  # lazy: only a fault of this program pays for it

        traceback.print_exception(error)
        warn("this is a fault of sandlock itself; please report it with the lines above")
    return status


def status_of(error: BaseException) -> int:
    """Return the exit status that tells the kind of `error`."""
    if isinstance(error, UsageError):
        return USAGE
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, SandlockError):
        if isinstance(error, FileNotFoundError):  # CommandNotFoundError
            return NOT_FOUND
        if isinstance(error, PermissionError):  # CommandNotRunnableError
            return NOT_RUNNABLE
    return NOT_SET_UP


def lines_of(error: BaseException) -> list[str]:
    """Return what to say about `error`, one line for each fault."""
    if isinstance(error, PolicyError):
        return [*[_problem(problem) for problem in error.problems], *getattr(error, "__notes__", ())]
    if isinstance(error, UsageError):
        verb = f" {error.verb}" if error.verb else ""
        return [f"{error} (see sandlock{verb} --help)"]
    if isinstance(error, SandlockError) and isinstance(error, OSError) and error.filename is not None:
        return [f"{error.filename}: {error.strerror}"]
    return [str(error) or type(error).__name__]


def _problem(problem: Problem) -> str:
    """One line: the field and its flag, the value, the reason, the remedy."""
    flag = _FLAG_BY_PATH.get(problem.field.partition("[")[0], "")
    name = problem.field
    if flag and flag not in problem.reason:
        name += f" ({flag})"
    value = problem.value.strip("'\"")
    if value and value not in problem.reason:
        name += f" = {problem.value}"
    where = f" (at character {problem.position + 1})" if problem.position is not None else ""
    text = f"{name}: {problem.reason}{where}" if name else f"{problem.reason}{where}"
    return f"{text}; {problem.remedy}" if problem.remedy else text
