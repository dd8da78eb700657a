"""A record of what happened in a sandbox: one line of JSON for each event, in a file of the caller's."""

from __future__ import annotations

import json
import os
import time
from _thread import allocate_lock
from errno import errorcode
from stat import S_ISREG
from typing import TYPE_CHECKING

from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.paths import is_below
from sandlock_runtime.errors import ConfinementError
from sandlock_runtime.masking import Masker, without_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandlock_notif import Event
    from sandlock_policy import Plan, Policy, Protection
    from sandlock_runtime.result import Result

__all__ = ["MAX_BYTES", "SCHEMA", "AuditLog", "refuse_tampering", "write_grants", "written_below"]

SCHEMA = 1
"""Of the lines; a key or an event that is added does not change it."""
MAX_BYTES = 256 << 20
_WRITE_FILE = 1 << 1  # LANDLOCK_ACCESS_FS_WRITE_FILE, linux/landlock.h


class AuditLog:
    r"""An audit of one run. Give it to `Sandbox(audit=...)`, or call its methods as the run goes on.

    Every line has `schema`, `time` (RFC 3339, UTC) and `event`: `start` (command, folder, policy), `launched` (pid,
    protections), `denied`, `fault`, `audit`, `bound` and `limit` (system call, thread, errno, reason, detail),
    `process` and `sample` (what the run does over time, told where a supervisor is), `end` (as in `Result`) or
    `failed`. Bytes that are not UTF-8 are lone surrogates, escaped (`\udcff`), as `os.fsdecode` has them: nothing is
    lost. Secrets are masked, see `Masker`.

    Arguments:
        path: appended to; made with mode 0600.
        policy: of the run: its secrets are masked.
        max_bytes: after so many of this run the events are only counted, and `end` says how many in `lost`.

    Raises:
        ConfinementError: the file cannot be opened, is no regular file, or can be read by others.

    """

    def __init__(self, path: str | bytes | os.PathLike[str], policy: Policy, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = os.fsdecode(path)
        self._fd = _open(self.path)
        self._lock = allocate_lock()
        self._policy = policy
        self._masker = Masker(policy, os.environ)
        self._room = max_bytes
        self.lost = 0

    def __call__(self, event: Event) -> None:
        """Write an event of the supervisor, or of the HTTP proxy; called in their threads."""
        line: dict[str, object] = {"syscall": event.syscall, "tid": event.tid, "errno": event.errno}
        line["error"] = errorcode.get(event.errno, "")
        line["reason"] = self._masker.text(event.reason)
        line["detail"] = self._masker.value(dict(event.detail))
        self._write(event.kind, line)

    def note(self, kind: str, facts: Mapping[str, object]) -> None:
        """Write what the run does over time, see `sandlock_notif.timeline`; called in the supervisor's thread."""
        self._write(kind, {key: self._masker.text(at) if isinstance(at, str) else at for key, at in facts.items()})

    def start(self, command: Sequence[object]) -> None:
        """Write that `command` is about to be started."""
        words = [os.fsdecode(word) for word in command]  # type: ignore[arg-type]  # the launch checks what they are
        policy = without_values(self._policy).to_toml()
        self._write(
            "start", {"command": self._masker.words(words), "cwd": os.getcwd(), "policy": self._masker.text(policy)}
        )

    def launched(self, pid: int, guard_pid: int, protections: Iterable[Protection]) -> None:
        """Write which process it became, and what is enforced."""
        rows = {row.name: {"state": row.state, "layer": row.layer} for row in protections}
        self._write("launched", {"pid": pid, "guard": guard_pid, "protections": rows})

    def end(self, result: Result) -> None:
        """Write how it ended, and close."""
        usage = result.usage
        line: dict[str, object] = {
            "reason": result.reason,
            "exit_code": result.exit_code,
            "signal": result.signal,
            "error": self._masker.text(result.error),
            "denials": sum(denial.count for denial in result.denials),
            "usage": {name: getattr(usage, name) for name in usage.__match_args__},
            "lost": self.lost,
        }
        self._write("end", line, last=True)
        self.close()

    def fail(self, error: BaseException) -> None:
        """Write that nothing was started, and close."""
        self._write("failed", {"error": self._masker.text(str(error))}, last=True)
        self.close()

    def close(self) -> None:
        """Close the file; events that come later are counted as lost."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, event: str, line: dict[str, object], *, last: bool = False) -> None:
        """Append one line. What does not fit, or what the file system refuses, is counted: no verdict hangs on it."""
        now = time.time_ns()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 10**9))}.{now // 1000 % 10**6:06}Z"
        data = json.dumps({"schema": SCHEMA, "time": stamp, "event": event, **line}).encode("ascii") + b"\n"
        with self._lock:
            if self._fd < 0 or (len(data) > self._room and not last):
                self.lost += 1
                return
            self._room -= len(data)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError:  # ENOSPC, EIO, EDQUOT: whatever it was, the line is not there
                self.lost += 1


def write_grants(plan: Plan) -> list[str]:
    """Return the paths on the host that the program of `plan` may write below; those that a branch covers are not."""
    view = plan.view
    found = [path for path, access, _ in plan.fs_rules if access & _WRITE_FILE]
    if view is None:
        return found
    found += [host for host, _, only in view.binds if not only]
    root = view.root or ""
    for path, access, _ in view.rules:
        mounted = any(_is_below(path, inside) for _, inside, _ in view.binds)
        if access & _WRITE_FILE and not mounted:
            found.append(root + path)
    return [path for path in found if view.branch is None or not _is_below(path, view.branch)]


def written_below(plan: Plan, path: str) -> str:
    """Return the grant by which the program of `plan` may write `path` or what is below it, or ""."""
    return next((grant for grant in write_grants(plan) if _is_below(path, grant)), "")


def refuse_tampering(plan: Plan, path: str) -> None:
    """Raise PolicyError where the program itself could write the record at `path`."""
    grant = written_below(plan, path)
    if grant:
        text = f"lies below {grant}, which the program may write, so it could rewrite its own record"
        raise PolicyError([Problem("audit", path, text, "name a file elsewhere")])


def _is_below(path: str, folder: str) -> bool:
    return is_below(os.path.realpath(path), os.path.realpath(folder))


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        reason = f"{path}: {(error.strerror or 'cannot be opened').lower()}"
        raise ConfinementError("audit", reason, error.errno or 0, "name another file") from error
    status = os.fstat(fd)
    fault = ""
    if not S_ISREG(status.st_mode):
        fault = "is no regular file"
    elif status.st_uid != os.geteuid():
        fault = "belongs to another user"
    elif status.st_mode & 0o077:
        fault = "can be read by others"
    if fault:
        os.close(fd)
        raise ConfinementError("audit", f"{path} {fault}", 0, "name a new file, or chmod 600 this one")
    return fd
