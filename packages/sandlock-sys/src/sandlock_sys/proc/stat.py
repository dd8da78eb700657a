"""Parse /proc/PID/stat and /proc/PID/task/TID/stat (proc_pid_stat(5))."""

from __future__ import annotations

from dataclasses import dataclass

from sandlock_sys.errors import ProcParseError

__all__ = ["Stat", "parse_stat"]

_NUMBERS = 49  # fields behind the state, since 3.5


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields by their names in proc_pid_stat(5); times in clock ticks, sizes as documented there.

    Addresses are 0 for a reader without PTRACE_MODE_READ. `comm` is what the process called itself: up to 15 bytes
    (64 for kernel threads) of anything but NUL. (pid, starttime) names a process for good.
    """

    pid: int
    comm: bytes
    state: str
    ppid: int
    pgrp: int
    session: int
    tty_nr: int
    tpgid: int
    flags: int
    minflt: int
    cminflt: int
    majflt: int
    cmajflt: int
    utime: int
    stime: int
    cutime: int
    cstime: int
    priority: int
    nice: int
    num_threads: int
    itrealvalue: int
    starttime: int
    vsize: int
    rss: int
    rsslim: int
    startcode: int
    endcode: int
    startstack: int
    kstkesp: int
    kstkeip: int
    signal: int
    blocked: int
    sigignore: int
    sigcatch: int
    wchan: int
    nswap: int
    cnswap: int
    exit_signal: int
    processor: int
    rt_priority: int
    policy: int
    delayacct_blkio_ticks: int
    guest_time: int
    cguest_time: int
    start_data: int
    end_data: int
    start_brk: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    exit_code: int


def parse_stat(data: bytes, file: str = "stat") -> Stat:
    """Return the fields; those that a later kernel adds at the end are left out.

    The command name may hold spaces, parentheses and newlines, all unescaped: it ends at the last parenthesis.

    Raises:
        ProcParseError: the file does not have this form.

    """
    opening, closing = data.find(b" ("), data.rfind(b") ")
    if opening < 0 or closing < opening + 2:
        raise ProcParseError(file, 1, data, "no command name in parentheses")
    fields = data[closing + 2 :].split()
    if len(fields) < 1 + _NUMBERS or not data.endswith(b"\n"):
        raise ProcParseError(file, 1, data, f"{len(fields)} fields behind the command name, not {1 + _NUMBERS}")
    state = fields[0]
    if len(state) != 1 or not state.isalpha():
        raise ProcParseError(file, 1, data, f"not a state: {state!r}")
    try:
        pid = int(data[:opening])
        numbers = [int(field) for field in fields[1 : 1 + _NUMBERS]]
    except ValueError as error:
        raise ProcParseError(file, 1, data, str(error)) from None
    return Stat(pid, data[opening + 2 : closing], state.decode("ascii"), *numbers)
