"""The tools that a client of `sandlock mcp` can call: each call runs one program in a sandbox of its own.

The policy was chosen when the server was started. No argument of a call changes it: a client, or the text that it got
its arguments from, could otherwise choose its own confinement.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import lines_of
from sandlock_policy.errors import SandlockError
from sandlock_policy.record import record
from sandlock_runtime import Sandbox
from sandlock_runtime.streams import DEVNULL

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from sandlock_policy import Policy
    from sandlock_runtime import Result

__all__ = ["ArgumentError", "Call", "Tools"]

_STARTING_S = 0.002
_TIMEOUT_S = 60.0  # where the policy has none: a client waits for the answer
_LONGEST_CODE = 100_000  # bytes; the kernel takes 128 KiB for one argument (MAX_ARG_STRLEN, linux/binfmts.h)
_MOST_WORDS = 4096

_COMMON: dict[str, Any] = {
    "stdin": {"type": "string", "description": "text for its standard input; nothing where it is left out"},
    "timeout_s": {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "seconds until it is ended; never more than the server allows",
    },
}
_COMMAND = {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "program and arguments"}


class ArgumentError(ValueError):
    """The arguments of a call are not what its schema says."""


@record(frozen=True, slots=True)
class Call:
    """One program to run: its words, the text for its standard input or None, and its time."""

    command: list[str]
    text: str | None
    timeout_s: float


class Tools:
    """Runs programs under one policy.

    Arguments:
        policy: of every run.
        max_output: bytes of stdout, and of stderr, that are kept; the rest is counted.

    Leaving the `with` block kills what runs.
    """

    def __init__(self, policy: Policy, max_output: int) -> None:
        self._policy = policy
        self._max_output = max_output
        self._limit_s = policy.timeout or _TIMEOUT_S
        self._running: dict[object, Sandbox] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        """Return the tools."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what runs, and let nothing start any more."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for key in running:
            self.cancel(key)

    def descriptions(self) -> list[dict[str, Any]]:
        """Return what `tools/list` tells."""
        confined = (
            f"in a fresh sandbox with a fixed policy, for at most {self._limit_s:g} s. Of stdout and stderr "
            f"{self._max_output} bytes each are returned"
        )
        return [
            _tool("run_command", f"Run a program {confined}.", {"command": _COMMAND}, "command"),
            _tool("run_python", f"Run Python code (python3) {confined}.",
                  {"code": {"type": "string", "description": "the text of the program"}}, "code"),
        ]  # fmt: skip

    def prepare(self, name: str, arguments: dict[str, Any]) -> Call:
        """Return what a call asks for, of which no more is kept than it needs while it waits for its turn.

        Raises:
            ArgumentError: there is no such tool, or the arguments do not fit.

        """
        if name not in _MAKERS:
            raise ArgumentError(f"there is no tool {name[:100]!r}; there are {', '.join(_MAKERS)}")
        own, make = _MAKERS[name]
        command = make(arguments)
        unknown = sorted(set(arguments) - {own, *_COMMON})
        if unknown:
            raise ArgumentError(
                f"{name} takes no {unknown[0][:100]!r}: the policy was chosen when the server was started"
            )
        text = arguments.get("stdin")
        if text is not None and not isinstance(text, str):
            raise ArgumentError("stdin is not a string")
        given = arguments.get("timeout_s", self._limit_s)
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0:
            raise ArgumentError(f"timeout_s is {given!r:.100}, not a number of seconds above 0")
        return Call(command, text, float(min(given, self._limit_s)))

    def call(self, key: object, asked: Call, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Run a tool to its end, and return the result as `tools/call` gives it.

        Arguments:
            key: names the call for `cancel`.
            asked: from `prepare`.
            cancelled: whether nobody wants it any more; asked once `cancel` would find it.

        Raises:
            ArgumentError: the server is ending.

        """
        sandbox = Sandbox(self._policy)
        with self._lock:
            if self._closed:
                raise ArgumentError("the server is ending")
            self._running[key] = sandbox
        try:
            if cancelled():
                return _failed("it was cancelled")
            with sandbox:
                result = sandbox.run(
                    asked.command,
                    asked.timeout_s,
                    stdin=DEVNULL,
                    input=asked.text.encode("utf-8", "surrogatepass") if asked.text is not None else None,
                    max_output=self._max_output,
                )
        except (SandlockError, OSError, ValueError) as error:
            return _failed("\n".join(lines_of(error)))
        finally:
            with self._lock:
                del self._running[key]
        return _told(result)

    def cancel(self, key: object) -> None:
        """Kill the run of a call, if it is there; one that is being started as soon as it has."""
        sandbox = self._running.get(key)
        while sandbox is not None and self._running.get(key) is sandbox:
            if sandbox.is_running:
                sandbox.kill()
                return
            time.sleep(_STARTING_S)


def _tool(name: str, text: str, own: dict[str, Any], required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {**own, **_COMMON}, "required": [required], "additionalProperties": False}
    return {"name": name, "description": text, "inputSchema": schema}


def _command_of(arguments: dict[str, Any]) -> list[str]:
    words = arguments.get("command")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ArgumentError('command is a list of strings, such as ["ls", "-l"]')
    if len(words) > _MOST_WORDS or any("\0" in word for word in words) or not words[0]:
        raise ArgumentError("command has too many words, an empty program or a NUL byte")
    return words


def _python_of(arguments: dict[str, Any]) -> list[str]:
    code = arguments.get("code")
    if not isinstance(code, str) or "\0" in code:
        raise ArgumentError("code is not a string without NUL bytes")
    if len(code.encode("utf-8", "surrogatepass")) > _LONGEST_CODE:
        raise ArgumentError(f"code is longer than {_LONGEST_CODE} bytes; write it to a file and run that")
    return ["python3", "-c", code]


# tool -> its own argument, and what makes a command of it
_MAKERS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "run_command": ("command", _command_of),
    "run_python": ("code", _python_of),
}


def _told(result: Result) -> dict[str, Any]:
    """Return what became of a run: once for a program to read, and once for a model."""
    streams = {"stdout": (result.stdout, result.stdout_dropped), "stderr": (result.stderr, result.stderr_dropped)}
    known: dict[str, Any] = {"exit_code": result.exit_code, "reason": result.reason, "signal": result.signal}
    parts = []
    for name, (data, dropped) in streams.items():
        known[name] = data.decode("utf-8", "replace")
        known[f"{name}_dropped"] = dropped
        more = f"\n[{dropped} more bytes were dropped]" if dropped else ""
        if data or dropped:
            parts.append(f"{name}:\n{known[name]}{more}")
    known["denials"] = [
        {"syscall": one.syscall, "target": one.target, "reason": one.reason} for one in result.denials[:20]
    ]
    known["branch"] = result.branch
    end = f"signal {result.signal}" if result.signal is not None else f"exit code {result.exit_code}"
    parts.append(f"{result.reason}, {end}" + (f": {result.error}" if result.error else ""))
    parts += [f"denied: {one['syscall']} {one['target']} {one['reason']}" for one in known["denials"]]
    text = "\n".join(parts)
    return {"content": [{"type": "text", "text": text}], "structuredContent": known, "isError": not result.success}


def _failed(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": f"nothing was run: {text}"}], "isError": True}
