"""What runs inside a worker of `SandboxExecutor`: take a task, do it, answer. It is confined when it begins.

Messages are a length of 8 bytes and the content. A task is a pickle, which the host made. An answer is a status byte
and plain data (`sandlock_runtime.plain`): `r` a result, `x` an exception; `p` is a pickle that the host has agreed to.
"""

from __future__ import annotations

import os
import pickle
import sys

from sandlock_runtime.plain import PlainError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

__all__ = ["PICKLED", "RAISED", "RETURNED", "load", "main"]

RETURNED, RAISED, PICKLED = b"r", b"x", b"p"
_DEPTH = 50  # lines of a traceback's frames


def main(tasks_fd: int, answers_fd: int, main_path: str, pickled: str) -> None:
    """Serve until the host closes its end.

    Arguments:
        tasks_fd: the pipe that tasks come from.
        answers_fd: the pipe for answers.
        main_path: the host's main script, loaded when a task needs something of it; or "".
        pickled: "pickle" when results may be any object.

    """
    for fd in (tasks_fd, answers_fd):
        os.set_inheritable(fd, False)  # not for the programs that a task starts
    with os.fdopen(tasks_fd, "rb") as tasks, os.fdopen(answers_fd, "wb") as answers:
        while task := _receive(tasks):
            answer = _do(task, main_path, as_pickle=pickled == "pickle")
            answers.write(len(answer).to_bytes(8, "little"))
            answers.write(answer)
            answers.flush()


def _receive(tasks: BinaryIO) -> bytes:
    size = int.from_bytes(tasks.read(8), "little")
    return tasks.read(size)


def _do(task: bytes, main_path: str, *, as_pickle: bool) -> bytes:
    try:
        function, arguments, named = load(task, main_path)
        result = function(*arguments, **named)
        return PICKLED + pickle.dumps(result) if as_pickle else RETURNED + encode(result)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the host is told
        return RAISED + _described(error)


def load(pickled: bytes, main_path: str) -> Any:
    """Return what the host pickled, whose main script is loaded for it where it is needed."""
    if main_path and b"__main__" in pickled and "__mp_main__" not in sys.modules:
        _load_main(main_path)
    return pickle.loads(pickled)  # noqa: S301  # the host's own


def _described(error: BaseException) -> bytes:
    """Return class name, arguments, text and traceback as plain data."""
    import traceback  # lazy: good tasks never need it

    kind = type(error)
    text = str(error)
    if isinstance(error, PlainError):
        text += "; return plain data, or let the executor unpickle what comes: SandboxExecutor(results='pickle')"
    trace = "".join(traceback.format_exception(error, limit=-_DEPTH))
    arguments = error.args
    if isinstance(error, OSError) and isinstance(error.filename, (str, bytes)) and len(arguments) == 2:
        arguments = (*arguments, error.filename)  # which OSError leaves out
    try:
        return encode((kind.__module__, kind.__qualname__, arguments, text, trace))
    except PlainError:
        return encode((kind.__module__, kind.__qualname__, None, text, trace))


def _load_main(path: str) -> None:
    """Load the host's script under another name, as multiprocessing's spawn does, so that its functions are found."""
    import runpy  # lazy: only for tasks of the main script
    from types import ModuleType

    module = ModuleType("__mp_main__")
    sys.modules["__mp_main__"] = sys.modules["__main__"] = module
    module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
