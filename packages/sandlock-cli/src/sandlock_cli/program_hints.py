"""What some well-known programs need, told after they failed without it. Nothing here is certain, as with all hints."""

from __future__ import annotations

import os
import re
import shlex
from itertools import pairwise
from stat import S_ISREG
from typing import TYPE_CHECKING

from sandlock_policy.data.landlock import NET_BIND_TCP, READ
from sandlock_policy.paths import is_below

if TYPE_CHECKING:
    from sandlock_policy import Plan, Policy

__all__ = ["listening_ports", "program_hints"]

_PROC_READERS = frozenset("fuser htop lsof pgrep pidof pidstat pmap ps pstree pwdx tload top uptime vmstat w".split())
_TRACERS = frozenset(("gdb", "gdbserver", "lldb", "ltrace", "rr", "strace"))
_SERVERS = frozenset(
    "caddy daphne flask granian gunicorn hypercorn http-server jupyter jupyter-lab jupyter-notebook memcached nginx "
    "redis-server serve uvicorn vite waitress-serve".split()
)
_SERVER_MODULES = frozenset(("flask", "gunicorn", "http.server", "hypercorn", "uvicorn", "waitress"))
_PORT_OPTIONS = frozenset(("-b", "-p", "--bind", "--listen", "--port"))
_LISTENING_CODE = re.compile(
    r"\blisten\(\s*(?P<a>\d{1,5})?|\b(?:bind|create_server|TCPServer|HTTPServer|start_server)\b"
    r"(?:\(\s*\(\s*[\"'][\w.:-]{0,64}[\"']\s*,\s*(?P<b>\d{1,5}))?"
)
_MOST_BYTES = 4096  # of a file that names a folder
_CODE_OPTIONS = frozenset(("-c", "-e", "--eval"))


def program_hints(command: list[str], plan: Plan, policy: Policy) -> list[str]:
    """Return the lines about what the program of `command` is known to need and `plan` does not give."""
    program = os.path.basename(command[0])
    lines = []
    if program in _PROC_READERS and plan.handled_fs and not _reads_proc(plan):
        lines.append(f"{program} reads /proc, which is outside the policy; --fs-read /proc would allow that")
    if program in _TRACERS and "ptrace" not in policy.extra_allow_syscalls:
        lines.append(
            f"{program} traces its children, which is refused; --extra-allow-syscalls ptrace would allow that inside"
        )
    if program == "git" or "git" in _shell_words(command):
        lines += _worktree_line(plan)
    bound = plan.filter.served_network or any(access & NET_BIND_TCP for _, access in plan.port_rules)
    ports = None if bound else listening_ports(command)
    if ports is not None:
        rule = ",".join(map(str, ports)) or "PORT"
        lines.append(f"listening is outside the policy; --net-allow-bind {rule} would allow it")
    return lines


def _shell_words(command: list[str]) -> set[str]:
    return {word for option, text in pairwise(command) if option in _CODE_OPTIONS for word in text[: 1 << 16].split()}


def _worktree_line(plan: Plan) -> list[str]:
    """Return the line about a linked worktree, whose repository lies elsewhere (gitrepository-layout(5)).

    Safety: the file is the project's, and may name any folder. Only a repository that itself names this worktree is
    worth advising, and its name is a word of a command line, which somebody else has chosen.
    """
    told = _small_file(os.path.join(plan.cwd, ".git"))
    if not told.startswith("gitdir:"):
        return []
    entry = os.path.realpath(os.path.join(plan.cwd, told.removeprefix("gitdir:").strip()))
    store = os.path.dirname(os.path.dirname(entry))
    back = _small_file(os.path.join(entry, "gitdir")).strip()
    if not back or os.path.realpath(os.path.join(entry, back)) != os.path.realpath(os.path.join(plan.cwd, ".git")):
        return []
    if any(access & READ and is_below(store, os.path.realpath(path)) for path, access, _ in plan.fs_rules):
        return []
    return [f"{plan.cwd} is a linked worktree; --fs-read {shlex.quote(store)} would let git read its repository"]


def _small_file(path: str) -> str:
    """Return what a regular file holds, up to a NUL byte; "" where it is none, or not to be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(fd, "rb") as file:
        data = file.read(_MOST_BYTES) if S_ISREG(os.fstat(fd).st_mode) else b""
    return os.fsdecode(data.partition(b"\0")[0])


def _reads_proc(plan: Plan) -> bool:
    inside = plan.view.rules if plan.view is not None and plan.view.root is None else ()  # of its own /proc
    return any(path in ("/", "/proc") and access & READ for path, access, _ in (*plan.fs_rules, *inside))


def listening_ports(command: list[str]) -> list[int] | None:
    """Return the ports on which `command` seems to want to listen; None where it does not seem to."""
    program, words = os.path.basename(command[0]), command[1:]
    modules = {after for word, after in pairwise(words) if word == "-m"}
    if program in _SERVERS or (modules & _SERVER_MODULES and program.startswith(("python", "pypy"))):
        found = [port for before, word in pairwise(["", *words]) if (port := _port(word, before))]
        return found[:1] or ([8000] if "http.server" in modules else [])
    for option, text in pairwise(words):
        if option in _CODE_OPTIONS and (told := list(_LISTENING_CODE.finditer(text[: 1 << 16]))):
            numbers = {int(match["a"] or match["b"] or 0) for match in told}
            return sorted(number for number in numbers if 0 < number < 1 << 16)
    return None


def _port(word: str, before: str) -> int:
    """Return the port that a word of a server's command line is, or 0: `8000`, `--port=8000`, `-b 0.0.0.0:8000`."""
    option, equals, value = word.partition("=")
    if equals and option not in _PORT_OPTIONS:
        return 0
    if before[:1] == "-" and before not in _PORT_OPTIONS:
        return 0  # the value of another option
    text = (value if equals else word).rpartition(":")[2]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return number if number < 1 << 16 else 0
