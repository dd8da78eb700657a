"""File grants of a policy as Landlock rules for one run."""

from __future__ import annotations

from sandlock_policy.data import landlock
from sandlock_policy.errors import Problem, RuleError
from sandlock_policy.fields import FIELD_BY_NAME
from sandlock_policy.paths import expand_path, is_below, is_optional, normalise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandlock_policy.model import Policy
    from sandlock_policy.plan import Context

__all__ = ["CWD", "PROGRAM", "cwd_is_work", "decide_grants", "openable_devices", "shows_processes", "writable_places"]

# Two marks that presets use for what only a run knows.
CWD = "-${CWD}"  # the directory the program starts in, where `cwd_is_work`
PROGRAM = "-${PROGRAM}"  # the program's own file, and the folders it needs by itself

# Below these lies the state of the system, not somebody's work.
_SYSTEM_STATE = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib", "/var/log", "/var/spool")
# Device nodes are written through a read-only mount, so what lies here needs no mount of its own, but for the
# directories that hold real files.
_DEVICES = "/dev/"
_FILES_BELOW_DEV = ("/dev/shm", "/dev/mqueue", "/dev/hugepages")  # noqa: S108 - compared with, never written to
# What has no control that takes no capability; a terminal that is /dev/tty to a program belongs to its session.
_HARMLESS = ("/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero")


def decide_grants(
    policy: Policy, handled: int, cwd: str, context: Context, problems: list[Problem]
) -> tuple[dict[str, tuple[int, bool]], list[str]]:
    """Return path -> (access, required) of the policy's file grants, and the paths of the write grants alone.

    `cwd` is where the program starts; relative paths are taken from the caller's, as on any command line. Faults are
    added to `problems`.
    """
    rules: dict[str, tuple[int, bool]] = {}
    for path, required in _expand_all("fs_readable", policy.fs_readable, cwd, context, problems):
        _add(rules, path, landlock.READ & handled, required=required)
    writable = []
    for path, required in _expand_all("fs_writable", policy.fs_writable, cwd, context, problems):
        _add(rules, path, handled & ~landlock.NEVER, required=required)
        writable.append(path)
    if policy.gpu_devices is not None:
        from sandlock_policy.gpu import grant_gpus  # lazy: few programs compute on one

        grant_gpus(policy.gpu_devices, rules, handled)
    return rules, writable


def writable_places(writable: list[str]) -> tuple[str, ...]:
    """Return those of the write grants below which there are files, not device nodes."""
    return tuple([path for path in writable if not path.startswith(_DEVICES) or _is_below(path, _FILES_BELOW_DEV)])


def openable_devices(rules: Mapping[str, tuple[int, bool]], root: str | None) -> tuple[str, ...]:
    """Return the paths, on the host, of devices that `rules` grant for writing, and of those that do no harm.

    Of the latter each is there whatever is granted: the launch opens /dev/null, and Landlock decides for the program.
    """
    found = list(_HARMLESS)
    found += [
        path
        for path, (access, _) in rules.items()
        if f"{path}/".startswith(_DEVICES) and access & landlock.FS_WRITE_FILE
    ]
    return tuple([(root or "").rstrip("/") + path for path in dict.fromkeys(sorted(found))])


def shows_processes(rules: Mapping[str, tuple[int, bool]]) -> bool:
    """Tell whether `rules` let the program read about processes of others in /proc."""
    return "/" in rules or "/proc" in rules


def cwd_is_work(cwd: str, home: str) -> bool:
    """Tell whether `cwd` is a place of somebody's work, so that a preset may grant it unasked.

    `/`, a home directory, the directories that hold it, and those of the system's own state are not: whoever starts
    a sandbox there has not chosen them. Granting `~` would be granting keys and tokens, `/etc` to root the shadow file.
    `cwd` has its links resolved, or a link that an earlier run planted would decide what it stands for.
    """
    if cwd == "/" or _is_below(cwd, _SYSTEM_STATE) or cwd in ("/home", "/var", "/mnt", "/media", "/srv"):
        return False
    return not f"{home}/".startswith(f"{cwd}/")


def _expand_all(
    name: str, grants: tuple[str, ...], cwd: str, context: Context, problems: list[Problem]
) -> list[tuple[str, bool]]:
    """Return (absolute path, required) of the grants of field `name`."""
    result: list[tuple[str, bool]] = []
    for index, written in enumerate(grants):
        optional = is_optional(written)
        path = written[1:] if optional else written
        if written == CWD:
            if cwd_is_work(cwd, context.home):
                result.append((cwd, False))
        elif written == PROGRAM:
            own = (context.program,) if context.program else ()
            result += [(path, False) for path in (*own, *context.program_folders)]
        elif path[0] == "/" and "${" not in path:
            path = normalise(path)
            if path.startswith("/proc/") and _names_process(path):
                reason = "a rule on one process's entry of /proc stays with the process that made the rule"
                remedy = "leave it out, or grant /proc as a whole"
                problems.append(Problem(f"{FIELD_BY_NAME[name].path}[{index}]", written, reason, remedy))
                continue
            result.append((path, not optional))
        else:
            try:
                path = expand_path(path, cwd=context.cwd, home=context.home, variables=context.env)
            except RuleError as fault:
                # What an optional path stands for may be unknown, just as it may be missing.
                if not optional:
                    problems.append(Problem(f"{FIELD_BY_NAME[name].path}[{index}]", written, str(fault), fault.remedy))
                continue
            result.append((path, not optional))
    return result


def _names_process(path: str) -> bool:
    name = path.split("/", 3)[2]
    return name in ("self", "thread-self") or name.isdigit()


def _add(rules: dict[str, tuple[int, bool]], path: str, access: int, *, required: bool) -> None:
    old = rules.get(path)
    rules[path] = (access, required) if old is None else (access | old[0], required or old[1])


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    return any(is_below(path, folder) for folder in folders)
