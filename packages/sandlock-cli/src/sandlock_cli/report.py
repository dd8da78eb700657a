"""The result of a run as one JSON object: on stdout with the program's output (--json), or on a fd (--status-fd)."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import lines_of, printable, status_of, warn
from sandlock_cli.hints import hints_after
from sandlock_cli.outcome import is_implicit, record_outcome, tell_outcome

if TYPE_CHECKING:
    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result

__all__ = ["report_failure", "report_result"]

_SCHEMA = 1  # of the object; a key that is added does not change it


def report_result(
    result: Result,
    plan: Plan,
    policy: Policy,
    command: list[str],
    status: int,
    status_fd: int | None,
    own: dict[str, Any],
) -> int:
    """Write the object for `result` where the options want it, the rest as `run` does, and return `status`."""
    hints = hints_after(command, plan, result, policy, implicit=is_implicit(own)) if status else []
    record: dict[str, Any] = {
        "schema": _SCHEMA,
        "success": result.success,
        "status": status,
        "reason": result.reason,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "error": result.error,
        "hints": [printable(line) for line in hints],
        "protections": {
            row.name: {"state": row.state, "layer": row.layer, "detail": row.detail} for row in result.protections
        },
        **record_outcome(result),
        "usage": {name: getattr(result.usage, name) for name in result.usage.__match_args__},
    }
    if status_fd is not None:
        _write(status_fd, record)
    if own["json"]:
        record |= _stream("stdout", result.stdout, result.stdout_dropped)
        record |= _stream("stderr", result.stderr, result.stderr_dropped)
        _write(1, record)
    else:
        tell_outcome(result, plan, policy, command, own, failed=status != 0)
    return status


def report_failure(error: BaseException, status_fd: int | None, *, to_stdout: bool) -> None:
    """Write the object for a program that was not started; the reason is `SETUP`."""
    record = {
        "schema": _SCHEMA,
        "success": False,
        "status": status_of(error),
        "reason": "SETUP",
        "exit_code": -1,
        "signal": None,
        "error": "\n".join(printable(line) for line in lines_of(error)),
    }
    if status_fd is not None:
        _write(status_fd, record)
    if to_stdout:
        _write(1, record)


def _stream(name: str, data: bytes, dropped: int) -> dict[str, Any]:
    """Return the keys of one captured stream; its bytes too, where they are not UTF-8."""
    try:
        keys: dict[str, Any] = {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        keys = {name: data.decode("utf-8", "replace"), f"{name}_base64": b64encode(data).decode("ascii")}
    if dropped:
        keys[f"{name}_dropped"] = dropped
    return keys


def _write(fd: int, record: dict[str, Any]) -> None:
    """Write `record` as one line; ASCII only, so that no terminal and no encoding can come between."""
    data = memoryview(json.dumps(record).encode("ascii") + b"\n")
    if fd == 1 and sys.stdout is not None:
        sys.stdout.flush()
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:  # whoever asked for it has gone (EPIPE), or its disk is full: the exit status stands
        warn(f"the result could not be written to fd {fd}: {error.strerror}")
