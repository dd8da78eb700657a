"""After a failure: what the command line mentions and the policy does not grant, with the option that would.

The kernel does not tell what it refused, so nothing here claims to know why the program failed. A line says two facts:
something that the command names lies outside the policy, and which option would change that.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandlock_cli.mentions import Mentions, read_command
from sandlock_policy.data.landlock import FS_WRITE_FILE, NET_CONNECT_TCP, READ
from sandlock_runtime import host_features

if TYPE_CHECKING:
    from sandlock_cli.mentions import PathMention
    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result

__all__ = ["hints_after"]

_MOST = 3  # lines about paths: who mentions more has a policy to write, not a grant to add
_GENERIC = (
    "no policy was named, so the preset `default` held; --fs-read PATH, --fs-write PATH and --net-allow RULE grant "
    "more, and --explain shows what is granted"
)
_ADDRESS = re.compile(r"[\d.]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*|localhost")


@dataclass(frozen=True, slots=True)
class _Grants:
    """The file grants of a plan, with links resolved as the kernel does."""

    readable: tuple[str, ...]
    writable: tuple[str, ...]

    def reads(self, path: str) -> bool:
        return _is_below(path, self.readable)

    def writes(self, path: str) -> bool:
        return _is_below(path, self.writable)


def hints_after(command: list[str], plan: Plan, result: Result, policy: Policy, *, implicit: bool) -> list[str]:
    """Return the lines for stderr after `command` failed under `plan`, the most specific first.

    `implicit` means that the caller named no policy: then there is always a line that names the options.
    """
    if result.reason == "TIMEOUT":
        return [f"the program was ended after {policy.timeout:g} s (--timeout)"]
    if result.reason == "SUPERVISOR":
        return [result.error]
    if result.reason == "DENIED":
        line = "the program was killed for a system call of another architecture or interface (32-bit, x32); "
        return [line + "no option allows those"]
    if result.signal is not None:
        return []
    mentions = read_command(command, plan.cwd)
    lines = _path_hints(mentions, plan) + _network_hints(mentions, plan)
    if mentions.kills:
        lines.append("signals reach processes of the sandbox only; no option allows others")
    if not lines and implicit:
        lines.append(_GENERIC)
    return lines


def _path_hints(mentions: Mentions, plan: Plan) -> list[str]:
    if not plan.handled_fs:
        return []
    rules = [(os.path.realpath(path), access) for path, access, _ in plan.fs_rules]
    grants = _Grants(
        tuple([path for path, access in rules if access & READ]),
        tuple([path for path, access in rules if access & FS_WRITE_FILE]),
    )
    lines = []
    for mention in mentions.paths:
        line = _path_hint(mention, grants)
        if line and line not in lines:
            lines.append(line)
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
        can = os.access(path, os.R_OK)
        return f"{path} is outside the policy; --fs-read {path} would allow reading it{_account(can)}"
    if not mode and not mention.writes and not mention.in_code:
        return ""  # a name that is not there: a slip, or the program's own business
    target = path if mode and not mention.removes else os.path.dirname(path)
    if grants.writes(target) or not os.path.isdir(os.path.dirname(path)):
        return ""
    state = "can be read only" if mode and grants.reads(path) else "is outside the policy for writing"
    verb = "creating" if not mode else "removing" if mention.removes else "writing"
    can = os.access(target, os.W_OK)
    return f"{path} {state}; --fs-write {target} would allow {verb} it{_account(can)}"


def _account(can: bool) -> str:
    return "" if can else ", but your account may not do that either"


def _network_hints(mentions: Mentions, plan: Plan) -> list[str]:
    if not mentions.network:
        return []
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
    line = f"{state}; --net-allow {rule} would allow connecting there"
    if names and not host_features().supervisor:
        line += f" by address (looking up {names[0]} takes UDP, which this release cannot grant)"
    return [line]


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    """Tell whether `path`, or what would be made there, is one of `folders` or beneath one."""
    real = os.path.realpath(path)
    return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in folders)
