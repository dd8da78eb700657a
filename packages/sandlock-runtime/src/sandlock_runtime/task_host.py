"""The host's end of one worker of `SandboxExecutor`: a confined interpreter, a pipe for tasks, one for answers.

What comes back is somebody else's: its length is bounded, it is read as plain data, and nothing of it is looked up,
imported or called, but for the exception classes of `_EXCEPTIONS`.
"""

from __future__ import annotations

import builtins
import os
import pickle
import sys
import time
from select import POLLIN, POLLOUT, poll
from typing import TYPE_CHECKING

from sandlock_runtime.code_paths import import_paths, main_script
from sandlock_runtime.errors import ChildError, TaskError
from sandlock_runtime.plain import PlainError, decode
from sandlock_runtime.sandbox import Sandbox
from sandlock_runtime.streams import DEVNULL
from sandlock_runtime.task_worker import PICKLED, RAISED, RETURNED

if TYPE_CHECKING:
    from typing import Any

    from sandlock_policy import Policy

__all__ = ["TaskHost"]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[5]); "
    "from sandlock_runtime.task_worker import main; main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5])"
)
_CHUNK = 1 << 20
_HEAD = 8
_NOTHING = pickle.dumps((bool, (), {}))
_START_S = 60.0
_LONGEST_TRACE = 1 << 16
_LARGEST_PLACE = 1 << 20  # of a column or line in a SyntaxError
_END_S = 1.0  # between the end of the answers and that of the worker, which tells why it ended

# Classes that an answer may name: builtin ones that only keep their arguments, and mean nothing to whoever waits.
# KeyboardInterrupt, SystemExit and GeneratorExit are no subclasses of Exception, and so are not among them.
_EXCEPTIONS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not name.startswith("Stop") and "Group" not in name
}


class TaskHost:
    """One worker. Used by one thread; `kill` may come from any.

    Arguments:
        policy: what the worker may do.
        results: "plain" or "pickle".
        max_result: bytes that an answer may have.

    Raises:
        SandlockError: it could not be started.

    """

    def __init__(self, policy: Policy, results: str, max_result: int) -> None:
        self._results = results
        self._max_result = max_result
        self._sandbox = Sandbox(policy)
        self._timeout_s = policy.timeout
        self._over = False
        tasks, self._tasks = os.pipe()
        self._answers, answers = os.pipe()
        script = main_script()
        command = [
            sys.executable, "-P", "-c", _START, str(tasks), str(answers), script, results, import_paths(),
        ]  # fmt: skip
        try:
            self._process = self._sandbox.popen(command, DEVNULL, pass_fds=(tasks, answers))
        except BaseException:
            os.close(self._tasks)
            os.close(self._answers)
            raise
        finally:
            os.close(tasks)
            os.close(answers)
        os.set_blocking(self._tasks, False)
        os.set_blocking(self._answers, False)

    def begin(self) -> None:
        """Wait until the interpreter inside has started, which no task's time is spent on; raises as `call` does."""
        self._exchange(_NOTHING, _START_S)

    def call(self, task: bytes) -> Any:
        """Send a pickled task and return its result, or raise what it raised.

        Raises:
            TimeoutError: the policy's timeout is over; the worker is dead.
            ChildError: the worker ended; the exception has its result.
            TaskError: see there.

        """
        if self._readable():  # it speaks before it is asked: this would be taken for the answer
            self.kill()
            raise TaskError("", "the worker's answer is no answer: it came before the task")
        answer = self._exchange(task, self._timeout_s)
        status, content = bytes(answer[:1]), answer[1:]
        try:
            if status == RETURNED:
                return self._read(content)
            if status == PICKLED and self._results == "pickle":
                return pickle.loads(content)  # noqa: S301  # the caller asked for it
            if status == RAISED:
                raise _exception(self._read(content))
        except PlainError as error:
            self.kill()
            raise TaskError("", f"the worker's answer is no answer: {error}") from None
        self.kill()
        raise TaskError("", f"the worker's answer is no answer: status {status!r}")

    @property
    def alive(self) -> bool:
        """Whether it can take another task."""
        return not self._over and self._sandbox.is_running

    def kill(self) -> None:
        """End the worker and everything in its sandbox."""
        self._over = True
        self._process.kill()

    def close(self) -> None:
        """End the worker and free everything; not while `call` runs."""
        for fd in (self._tasks, self._answers):
            os.close(fd)
        self._process.close()

    def _readable(self) -> bool:
        watch = poll()
        watch.register(self._answers, POLLIN)
        return any(events & POLLIN for _, events in watch.poll(0))

    def _exchange(self, task: bytes, timeout_s: float | None) -> memoryview:
        """Send, and wait for the whole answer, both within the time."""
        out = memoryview(len(task).to_bytes(_HEAD, "little") + task)
        answer = bytearray()
        wanted = _HEAD
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        watch = poll()
        watch.register(self._answers, POLLIN)
        watch.register(self._tasks, POLLOUT)
        while len(answer) < wanted or wanted == _HEAD:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self.kill()
                raise TimeoutError(f"the task took more than {timeout_s} s; its worker was killed")
            for fd, _ in watch.poll(None if left is None else left * 1000 + 1):
                if fd == self._tasks:
                    out = self._send(out)
                    if not out:
                        watch.unregister(fd)
                    continue
                self._take(answer, wanted)
                if wanted == _HEAD and len(answer) >= _HEAD:
                    wanted = _HEAD + self._size(int.from_bytes(answer[:_HEAD], "little"))
        return memoryview(answer)[_HEAD:]

    def _read(self, content: memoryview) -> Any:
        """Read plain data, for which the time of a task is enough: what is short to send may be long to read."""
        try:
            return decode(content, None if self._timeout_s is None else time.monotonic() + self._timeout_s)
        except TimeoutError:
            self.kill()
            raise TimeoutError(f"reading the answer took more than {self._timeout_s} s") from None

    def _size(self, size: int) -> int:
        if 0 < size <= self._max_result:
            return size
        self.kill()
        raise TaskError("", f"the worker's answer has {size} bytes, and max_result is {self._max_result}")

    def _send(self, out: memoryview) -> memoryview:
        try:
            return out[os.write(self._tasks, out[:_CHUNK]) :]
        except BlockingIOError:
            return out
        except BrokenPipeError:
            return out[:0]  # it ended, or does not want any more: the answers' end tells

    def _take(self, answer: bytearray, wanted: int) -> None:
        data = os.read(self._answers, min(_CHUNK, wanted - len(answer)))
        if not data:
            try:
                result = self._process.wait(_END_S)
            except TimeoutError:  # it has closed its end and lives on
                self.kill()
                result = self._process.wait()
            raise ChildError(result)
        answer += data


def _exception(described: Any) -> Exception:
    """Return the exception that an answer describes: a builtin one, or a TaskError."""
    if type(described) is not tuple or len(described) != 5:
        raise PlainError("no exception")
    module, name, arguments, text, trace = described
    if any(type(part) is not str for part in (module, name, text, trace)):
        raise PlainError("no exception")
    trace = trace[-_LONGEST_TRACE:]
    inside = TaskError(f"{module}.{name}", text, trace)
    kind = _EXCEPTIONS.get(name) if module == "builtins" else None
    if kind is None or type(arguments) is not tuple:
        return inside
    if issubclass(kind, SyntaxError) and not _can_be_shown(arguments):
        return inside
    try:
        error = kind(*arguments)
    except Exception:  # noqa: BLE001  # arguments that the class does not take: the worker's invention
        return inside
    error.__cause__ = inside
    error.add_note(f"in the sandbox:\n{trace}")
    return error


def _can_be_shown(arguments: tuple[Any, ...]) -> bool:
    """Tell whether a SyntaxError may have these: who prints it draws a line as long as its numbers say."""
    details = arguments[1] if len(arguments) > 1 else ()
    return type(details) is tuple and all(type(one) is not int or abs(one) <= _LARGEST_PLACE for one in details)
