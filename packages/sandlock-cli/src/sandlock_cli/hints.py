"""After a failure: what the supervisor denied, and what the command line mentions and the policy does not grant.

The supervisor tells what it refused. The kernel does not, so nothing here claims to know why the program failed: a line
says two facts, that something which the command names lies outside the policy, and which option would change that.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_cli.mentions import Mentions, read_command
from sandlock_cli.program_hints import program_hints
from sandlock_policy.data.landlock import FS_WRITE_FILE, NET_CONNECT_TCP, READ
from sandlock_policy.fields import FIELD_BY_NAME
from sandlock_policy.paths import is_below
from sandlock_runtime import host_features

if TYPE_CHECKING:
    from sandlock_cli.mentions import PathMention
    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result
    from sandlock_runtime.result import Denial

__all__ = ["hints_after"]

_MOST = 3  # lines about paths: who mentions more has a policy to write, not a grant to add
_MOST_DENIALS = 5
_LONGEST = 300  # characters of what the program chose
_GENERIC = (
    "no policy was named, so the preset `default` held: the current directory can be read and not written, and there "
    "is no network; --fs-write ., --fs-read PATH, --net-allow RULE and --net-allow-bind PORT grant more, and --explain "
    "shows what is granted"
)
_SHARED = ("/tmp", "/var/tmp")  # noqa: S108  # named, not used
_OF_A_PROCESS = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/|$)")
_ADDRESS = re.compile(r"[\d.]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*|localhost")


@dataclass(frozen=True, slots=True)
class _Grants:
    """The file grants of a plan, with links resolved as the kernel does."""

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    private_tmp: bool

    def reads(self, path: str) -> bool:
        return _is_below(path, self.readable)

    def writes(self, path: str) -> bool:
        return _is_below(path, self.writable)


def hints_after(command: list[str], plan: Plan, result: Result, policy: Policy, *, implicit: bool) -> list[str]:
    """Return the lines for stderr after `command` failed under `plan`, the most specific first.

    `implicit` means that the caller named no policy: then there is always a line that names the options.
    """
    lines = _reason_hints(result, policy)
    denials = _denial_lines(result)
    if not lines and result.signal is None and result.reason == "EXITED" and not result.error:
        mentions = read_command(command, plan.cwd)
        known = program_hints(command, plan, policy)
        listens = any("--net-allow-bind" in line for line in known)  # its address is no peer of its
        lines = known + _path_hints(mentions, plan) + ([] if listens else _network_hints(mentions, plan, policy))
        if mentions.kills:
            lines.append("signals reach processes of the sandbox only; no option allows others")
        if not lines and not denials and implicit:
            lines.append(_GENERIC)
    return lines + denials


def _reason_hints(result: Result, policy: Policy) -> list[str]:
    """Return what the reason of the end says by itself; the error of the sandbox is told elsewhere."""
    if result.reason == "TIMEOUT":
        return [f"the program was ended after {policy.timeout:g} s (--timeout)"]
    if result.reason == "MEMORY":
        return ["the program was killed for using more memory than --max-memory allows"]
    if result.reason == "DISK":
        return ["the program was ended: it raced past --max-disk and wrote far more than that"]
    if result.reason == "DENIED":
        line = "the program was killed for a system call of another architecture or interface (32-bit, x32); "
        return [line + "no option allows those"]
    return []


def _denial_lines(result: Result) -> list[str]:
    """Return one line for each of the last things that the supervisor refused: these are facts, unlike the hints.

    What the program chose stands in quotes, so that it cannot continue our sentence with one of its own.
    """
    shown = result.denials[-_MOST_DENIALS:]
    lines = []
    if len(result.denials) > len(shown):
        lines.append(f"{len(result.denials) - len(shown)} other kinds of calls were denied before these")
    for denial in shown:
        target = f" {denial.target[:_LONGEST]!r}" if denial.target else ""
        times = f" {denial.count} times" if denial.count > 1 else ""
        reason = f": {told[:_LONGEST]}" if (told := _reason(denial)) else ""
        flag = f"; {denial.flag[:_LONGEST]} would allow it" if denial.flag else _limit(denial.reason)
        lines.append(f"{denial.syscall or 'a call'}{target} was denied{times}{reason}{flag}")
    return lines


def _reason(denial: Denial) -> str:
    """Return why, without the target and the option that the line names anyway."""
    reason = denial.reason
    if denial.flag:
        reason = reason.removesuffix(f": {denial.flag}")
    if denial.target:
        reason = reason.removeprefix(f"{denial.target} ")
    return "no rule allows it" if reason == "is not allowed" else reason


def _limit(reason: str) -> str:
    """Return what would allow a call that failed for a limit; reasons of limits begin with the field's name."""
    field = FIELD_BY_NAME.get(reason.partition(":")[0])
    return f"; a larger {field.flags[-1]} would allow it" if field is not None and field.flags else ""


def _path_hints(mentions: Mentions, plan: Plan) -> list[str]:
    if not plan.handled_fs:
        return []
    inside = plan.view.rules if plan.view is not None and plan.view.root is None else ()  # of its own /proc
    rules = [(os.path.realpath(path), access) for path, access, _ in (*plan.fs_rules, *inside)]
    grants = _Grants(
        tuple([path for path, access in rules if access & READ]),
        tuple([path for path, access in rules if access & FS_WRITE_FILE]),
        bool(plan.private_tmp),
    )
    shown = plan.view or plan.served_view
    if shown is not None and shown.root is not None:
        return []  # the command names paths of another root
    places = () if shown is None else (shown.branch, *(inside for _, inside, _ in shown.binds))
    covered = tuple([os.path.realpath(path) for path in places if path])  # by a branch, or another folder
    lines = []
    for mention in mentions.paths:
        if _is_below(mention.path, covered):
            continue
        line = _path_hint(mention, grants)
        if line and line not in lines:
            lines.append(line)
    if mentions.works_here and not _is_below(plan.cwd, covered) and not grants.writes(plan.cwd):
        lines.append(
            f"{plan.cwd} is outside the policy for writing; --fs-write . would allow it{_width(plan.cwd, grants)}"
        )
    return lines[:_MOST]


def _path_hint(mention: PathMention, grants: _Grants) -> str:
    """Return the line about one path, or "" where the policy grants what the command seems to want."""
    path = mention.path
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        mode = 0  # it is not there, or not for this account to see
    if mode and stat.S_ISSOCK(mode):
        return f"{path} is a Unix socket; --disable unix_sockets would allow reaching it, and every other one"
    if mode and not mention.writes:
        if grants.reads(path):
            return ""
        if _OF_A_PROCESS.match(path):  # a rule on one process's entry stays with the process that made the rule
            return f"{path} is outside the policy; --fs-read /proc would allow reading it, of the sandbox's processes"
        told = _where(path) + _account(os.access(path, os.R_OK))
        return f"{path} is outside the policy; --fs-read {path} would allow reading it{told}"
    if not mode and not mention.writes and not mention.in_code:
        return ""  # a name that is not there: a slip, or the program's own business
    target = path if mode and not mention.removes else os.path.dirname(path)
    if grants.writes(target) or not os.path.isdir(os.path.dirname(path)):
        return ""
    state = "can be read only" if mode and grants.reads(path) else "is outside the policy for writing"
    verb = "creating" if not mode else "removing" if mention.removes else "writing"
    told = _where(target) + _account(os.access(target, os.W_OK)) + _width(target, grants)
    return f"{path} {state}; --fs-write {target} would allow {verb} it{told}"


def _where(path: str) -> str:
    """Return where a grant of `path` leads: whoever made a link in it has chosen that."""
    real = os.path.realpath(path)
    return "" if real == path else f" (it leads to {real}, and that is what would be granted)"


def _width(target: str, grants: _Grants) -> str:
    """Return what a grant of `target` would give away beside what was asked for."""
    real = os.path.realpath(target)
    if real in _SHARED:
        return (
            "; everybody's temporary files are there, and TMPDIR names a place of the sandbox's own"
            * grants.private_tmp
        )
    home = os.path.expanduser("~")
    return "; that is all of your home directory, so rather a folder in it" * (real == os.path.realpath(home))


def _account(can: bool) -> str:
    return "" if can else ", but your account may not do that either"


def _network_hints(mentions: Mentions, plan: Plan, policy: Policy) -> list[str]:
    if not mentions.network or plan.filter.served_network:
        return []  # where the supervisor judges, it tells what it denied
    ports = {port for port, access in plan.port_rules if access & NET_CONNECT_TCP}
    tcp = plan.filter.tcp
    if tcp and not plan.handled_net & NET_CONNECT_TCP:
        return []  # every port is granted
    names = sorted(host for host, _ in mentions.endpoints if host and not _ADDRESS.fullmatch(host))
    wanted = sorted({port for _, port in mentions.endpoints if port and port not in ports})
    if tcp and not wanted:
        return []
    state = "the network is outside the policy" if not tcp else f"TCP port {wanted[0]} is outside the policy"
    rule = f"tcp://:{','.join(map(str, wanted))}" if wanted else "tcp://:PORT"
    if names and policy.supervisor and "net_allow" in host_features().served:
        of_name = sorted({port for host, port in mentions.endpoints if host == names[0] and port})
        rule = f"{names[0]}:{','.join(map(str, of_name))}" if of_name else names[0]
        return [f"{state}; --net-allow {rule} would allow connecting there"]
    line = f"{state}; --net-allow {rule} would allow connecting there"
    if names:
        line += f" by address (looking up {names[0]} takes UDP, which needs the supervisor)"
    return [line]


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    """Tell whether `path`, or what would be made there, is one of `folders` or beneath one."""
    real = os.path.realpath(path)
    return any(is_below(real, folder) for folder in folders)
