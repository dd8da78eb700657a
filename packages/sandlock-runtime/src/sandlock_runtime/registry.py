"""The runs of this user that have a name: one file each, in a folder of the user's own, for as long as the run lasts.

A run is ended by a signal to its first process, whose end makes the guard kill the rest; nobody is asked for it. A
pid alone is never trusted. What an entry says is compared with the start times of the processes, and the signal goes
through a pidfd that was opened before they were read.
"""

from __future__ import annotations

import json
import os
import time
from errno import EPERM, ESRCH
from typing import TYPE_CHECKING

from sandlock_policy.record import record
from sandlock_runtime.errors import NotRunningError, SandboxError
from sandlock_runtime.listed_ports import held_ports, read_ports
from sandlock_sys import pidfd
from sandlock_sys.errors import SyscallError

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Run", "ended_logs", "folders", "is_private", "kill_run", "list_runs", "new_entry", "remove", "sweep"]

_SCHEMA = 1
_NEW = ".new-"
_LONGEST = 1 << 20  # bytes of an entry; ours have a few thousand
_LOGS_KEPT = 50  # of runs that have ended
_LITTER_S = 60.0  # a file that is half made for so long has no maker any more
_PID_MAX = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
_TIME_MAX = 1e11  # seconds: beyond any clock, within what a date can show
_SIGKILL, _SIGCONT = 9, 18  # the same numbers on every architecture here


@record(frozen=True, slots=True)
class Run:
    """A run that has a name, and lives.

    Attributes:
        name: of its policy; several may have the same.
        pid, pid_start: the first process, and when it started (clock ticks since boot).
        guard, guard_start: the parent of it, likewise.
        host: the process that launched it.
        started_s: seconds since 1970.
        cwd: where it was launched from.
        command: its words, secrets masked.
        policy: as a profile, without values of environment variables.
        protections: name -> (state, layer).
        ports: (protocol, port inside, port outside) of those that it has bound now, where the supervisor saw it.
        log: file with what the supervisor told; see `AuditLog`.
        file: this entry.

    """

    name: str
    pid: int
    pid_start: int
    guard: int
    guard_start: int
    host: int
    started_s: float
    cwd: str
    command: tuple[str, ...]
    policy: str
    protections: dict[str, tuple[str, str]]
    ports: tuple[tuple[str, int, int], ...]
    log: str
    file: str


def folders() -> tuple[str, ...]:
    """Return where entries may be, the best first: $XDG_RUNTIME_DIR/sandlock, /run/user/UID/sandlock, the state folder.

    All of them are looked at, since a run and who asks for it need not have the same environment.
    """
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.geteuid()}"]
    found = [os.path.join(place, "sandlock") for place in places if os.path.isabs(place) and os.path.isdir(place)]
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification: a relative value is ignored
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    if os.path.isabs(state):
        found.append(os.path.join(state, "sandlock", "run"))
    return tuple(dict.fromkeys(found))


def new_entry(file: str, name: str, pid: int, guard: int, known: dict[str, object]) -> None:
    """List a run in `file`; one that has ended already, or that the file system has no room for, is not listed.

    Arguments:
        file: NAME.TOKEN.json in one of `folders`, not there yet.
        name: of the run.
        pid: its first process.
        guard: the parent of it.
        known: the fields of `Run` that cannot be asked for: started_s, cwd, command, policy, protections, ports, log.

    Called again, it says what is known by then.

    """
    starts = _start_of(pid), _start_of(guard)
    if None in starts:
        return
    numbers = {"pid": pid, "pid_start": starts[0], "guard": guard, "guard_start": starts[1], "host": os.getpid()}
    here = {"schema": _SCHEMA, "boot": _boot(), "pid_namespace": _pid_namespace()}
    entry = {**here, "name": name, **numbers, **known}
    new = os.path.join(os.path.dirname(file), f"{_NEW}{os.urandom(8).hex()}")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as made:
            made.write(json.dumps(entry).encode("ascii"))
        os.rename(new, file)
    except OSError:  # no room in memory; what is left of the file is swept
        return


def list_runs(name: str | None = None) -> tuple[Run, ...]:
    """Return the runs of this user that live, the oldest first; entries of dead ones are removed.

    Arguments:
        name: only runs that have it, or the run whose first process has this number.

    """
    found = []
    for folder in folders():
        if is_private(folder):
            sweep(folder)
            found += [run for _, run in _entries(folder) if run is not None]
    if name is not None:
        found = [run for run in found if name in (run.name, str(run.pid))]
    return tuple(sorted(found, key=lambda run: run.started_s))


def ended_logs(name: str) -> tuple[str, ...]:
    """Return the logs of the runs with this name that have ended, the latest last."""
    found = []
    for folder in folders():
        if is_private(folder):
            live = {run.log for _, run in _entries(folder) if run is not None}
            logs = [os.path.join(folder, file) for file in os.listdir(folder) if _stem(file) == name]
            found += [log for log in logs if log.endswith(".jsonl") and log not in live]
    return tuple(sorted(found, key=_changed))


def kill_run(run: Run) -> None:
    """Kill every process of `run`, daemons included, and return when nothing of it is left.

    Safety: the pidfds are opened before the start times are read, so a number that belongs to another process by now is
    told apart, and a process that ends meanwhile makes the signal fail instead of hitting its successor. A process that
    does not look like the first one of a sandbox is never signalled, whatever the entry says.

    Raises:
        NotRunningError: it has ended.
        SandboxError: it is no sandbox of this user, or a process of it does not die.

    """
    guard = _pidfd_of(run.guard, run.guard_start)
    try:
        first = _pidfd_of(run.pid, run.pid_start)
        try:
            _check_confined(run)
            pidfd.send_signal(first, _SIGKILL)
            pidfd.send_signal(guard, _SIGCONT)  # a guard that was stopped from outside would not hear of it
        finally:
            os.close(first)
        if not pidfd.wait(guard, 60.0):
            raise SandboxError(f"a process of {run.name} is still there 60 s after SIGKILL: it waits in the kernel")
    except SyscallError as error:
        if error.errno == EPERM:
            raise SandboxError(f"{run.name}: its processes may not be signalled from here") from error
        if error.errno != ESRCH:
            raise
        pidfd.wait(guard, 60.0)
    finally:
        os.close(guard)


def _pidfd_of(pid: int, start: int) -> int:
    """Return the caller's pidfd of the process with this number and start time."""
    try:
        fd = pidfd.open_pidfd(pid)
    except SyscallError as error:
        raise NotRunningError(f"process {pid} has ended") from error
    if _start_of(pid) != start:
        os.close(fd)
        raise NotRunningError(f"process {pid} has ended")
    return fd


def _check_confined(run: Run) -> None:
    """Refuse what cannot be the first process of a sandbox: it descends from the guard, its privileges are given up."""
    fields = _status_of(run.pid)
    parent = fields[b"PPid"]
    between = _status_of(int(parent)) if parent not in (b"0", b"1", b"%d" % run.guard) else {}
    if between and between[b"NSpid"].split()[1:] == [b"1"]:  # the init of the run's own pid namespace
        parent = between[b"PPid"]
    if (parent, fields[b"NoNewPrivs"], fields[b"Seccomp"]) != (b"%d" % run.guard, b"1", b"2"):
        raise SandboxError(f"process {run.pid} is not the first one of a sandbox; the entry {run.file} is wrong")


def _status_of(pid: int) -> dict[bytes, bytes]:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            pairs = [line.partition(b":") for line in status]
    except OSError as error:
        raise NotRunningError(f"process {pid} has ended") from error
    return {key: value.strip() for key, _, value in pairs}


def is_private(folder: str) -> bool:
    """Tell whether `folder` is there, ours, and nobody else's."""
    try:
        status = os.lstat(folder)
    except OSError:  # not there, or not for us to see
        return False
    return status.st_mode & 0o170077 == 0o040000 and status.st_uid == os.geteuid()


def sweep(folder: str) -> None:
    """Remove the entries of dead runs, what was left half made, and all but the latest logs of ended runs."""
    live = set()
    for file, run in _entries(folder):
        if run is None:
            remove(file)
        else:
            live.add(run.log)
    logs = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        left = name.startswith(_NEW) or (name.endswith(".sock") and f"{path[:-5]}.jsonl" not in live)
        if left and time.time() - _changed(path) > _LITTER_S:
            remove(path)
        elif name.endswith(".jsonl") and path not in live:
            logs.append(path)
    latest = {_stem(os.path.basename(path)): path for path in sorted(logs, key=_changed)}
    kept = sorted(latest.values(), key=_changed)[-_LOGS_KEPT:]
    for path in logs:
        if path not in kept and time.time() - _changed(path) > _LITTER_S:  # a younger one may be about to be listed
            remove(path)


def _entries(folder: str) -> list[tuple[str, Run | None]]:
    """Return each entry's file, and the run where it lives; None stands for a dead one.

    What no entry of ours can be, and what was made before another boot or in another pid namespace, whose numbers mean
    nothing here, is left out; those of another boot are dead.
    """
    found: list[tuple[str, Run | None]] = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not name.endswith(".json") or name.startswith("."):
            continue
        entry = _read(path)
        if entry is None:
            continue
        if entry.pop("boot") != _boot():
            found.append((path, None))
        elif entry.pop("pid_namespace") == _pid_namespace():
            run = Run(**entry, file=path)
            found.append((path, run if _start_of(run.guard) == run.guard_start else None))
    return found


_KINDS: dict[str, type | tuple[type, ...]] = {
    "boot": str, "pid_namespace": int, "name": str, "pid": int, "pid_start": int, "guard": int, "guard_start": int,
    "host": int, "started_s": (int, float), "cwd": str, "command": list, "policy": str, "protections": dict,
    "ports": list, "log": str,
}  # fmt: skip


def _read(path: str) -> dict[str, Any] | None:
    """Return an entry, or None for a file that is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            entry = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.pop("schema", None) != _SCHEMA:
        return None
    if set(entry) != set(_KINDS) or any(not isinstance(entry[key], kind) for key, kind in _KINDS.items()):
        return None
    if any(not 1 < entry[key] <= _PID_MAX for key in ("pid", "guard")) or not 0 < entry["started_s"] < _TIME_MAX:
        return None
    if not all(isinstance(word, str) for word in entry["command"]):
        return None
    try:
        entry["ports"] = held_ports(read_ports(entry["ports"]))
    except ValueError:
        return None
    entry["command"] = tuple(entry["command"])
    entry["protections"] = {str(key): tuple(map(str, value)) for key, value in entry["protections"].items()}
    return entry


def _start_of(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks since boot; None where there is none (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:  # ENOENT; ESRCH where it ended in between
        return None
    fields = data.rpartition(b") ")[2].split()
    # A zombie has ended; its parent only has not looked yet.
    return int(fields[19]) if len(fields) > 19 and fields[0] not in (b"Z", b"X") else None


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _stem(file: str) -> str:
    """Return the name of the run that `file` belongs to: NAME.TOKEN.json, and NAME.TOKEN.jsonl."""
    return file.rpartition(".")[0].rpartition(".")[0]


def _changed(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:  # somebody else has swept
        return
