"""From a policy and a command to a plan, and the plan's parts as the launch takes them.

Resolving costs more than a part of the launch itself, and a sandbox that runs many commands resolves the same.
So the last plan of a policy is kept, and serves as long as nothing that it depends on is another: the host's features,
the environment, the directory, the user, and what was found on the file system, which is looked at each time.
"""

from __future__ import annotations

import os
from stat import S_ISLNK

from sandlock_arch import native_name
from sandlock_policy.errors import RuleError
from sandlock_policy.grants import PROGRAM
from sandlock_policy.plan import Context
from sandlock_policy.resolve import DEFAULT_PATH, resolve
from sandlock_policy.seccomp.filter import compile_filter
from sandlock_runtime.errors import ConfinementError
from sandlock_sys.landlock import OPTIONAL, PathRules
from sandlock_sys.spawn import Strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeAlias

    from sandlock_policy import HostFeatures, Plan, Policy

    Command: TypeAlias = Sequence[str | bytes | os.PathLike[str] | os.PathLike[bytes]]

__all__ = ["Parts", "Program", "encode_env", "encode_rules", "make_context", "parts_of", "plan_for", "prepare"]

_KEPT = 32  # plans, and parts of plans: a program has few policies in use at a time


class Program:
    """A command and where it was found.

    Attributes:
        argv: the command, as bytes.
        candidates: the paths that execvp(3) would try inside.
        path: the first candidate that is an executable file, as the host sees it, or "".

    """

    __slots__ = ("argv", "candidates", "path")

    def __init__(self, command: Command, search: str, cwd: str, root: str = "") -> None:
        if isinstance(command, (str, bytes)):
            raise TypeError(f"a command is a list of strings, not one string: write [{command!r}] or use sh -c")
        self.argv = [os.fsencode(word) for word in command]
        if not self.argv or not self.argv[0]:
            raise ValueError("a command needs at least the name of a program")
        name = self.argv[0]
        folders = [b""] if b"/" in name else os.fsencode(search).split(b":")
        self.candidates = [os.path.join(folder or b".", name) if b"/" not in name else name for folder in folders]
        self.path = ""
        base, above = os.fsencode(cwd), os.fsencode(root)
        for candidate in self.candidates:
            full = above + os.path.join(base, candidate)
            if os.path.isfile(full) and os.access(full, os.X_OK):
                self.path = os.fsdecode(os.path.normpath(full))
                break


def _without_links(path: str) -> str:
    """Return os.path.realpath(path), fast where nothing in `path` is a link."""
    if path[0] != "/" or path == "/" or "//" in path or "/." in path or path[-1] == "/":
        return os.path.realpath(path)
    end = 0
    while end >= 0:
        end = path.find("/", end + 1)
        try:
            if S_ISLNK(os.lstat(path if end < 0 else path[:end]).st_mode):
                return os.path.realpath(path)
        except OSError:  # what is not there, or cannot be looked at, has no links: realpath says so, whatever errno
            return os.path.realpath(path)
    return path


def make_context(policy: Policy, command: Command | None, *, hooked: bool = False) -> tuple[Context, Program | None]:
    """Return what `policy` is resolved against for one run of `command`, and the command itself.

    `hooked` says that a policy callback is asked as well.
    """
    env = os.environ  # not a copy: decoding every variable costs more than resolving the policy
    try:
        cwd = os.getcwd()
    except OSError as error:
        reason = f"the directory that you are in: {error.strerror}"
        raise ConfinementError("cwd", reason, error.errno or 0, "change into one that exists") from error
    home = env.get("HOME", "")
    home = _without_links(home) if home else ""  # as getcwd: no link hides that both are the same
    program = None
    if command is not None:
        search = policy.env.get("PATH") or env.get("PATH") or DEFAULT_PATH
        if policy.chroot is not None:
            program = Program(command, search, policy.cwd or "/", policy.chroot)
            return Context(cwd, home, env, os.getuid(), os.getgid(), hooked=hooked), program
        program = Program(command, search, os.path.join(cwd, policy.cwd) if policy.cwd else cwd)
    folders: tuple[str, ...] = ()
    if program is not None and program.path and (PROGRAM in policy.fs_readable or PROGRAM in policy.fs_writable):
        from sandlock_policy.programs import program_folders  # lazy: only for policies with that mark

        folders = program_folders(program.path, home, exists=os.path.exists, realpath=os.path.realpath)
    path = program.path if program is not None else ""
    return Context(cwd, home, env, os.getuid(), os.getgid(), path, folders, hooked), program


def plan_for(policy: Policy, context: Context, features: HostFeatures) -> Plan:
    """Resolve `policy` for one run, its working directory without links: what a link stands for can be planted."""
    if policy.chroot is not None:
        return resolve(policy, features, context)  # whose links are looked up inside, by the child
    if policy.cwd is not None and policy.cwd[:1] in ("/", "."):
        policy = policy.replace(cwd=os.path.realpath(os.path.join(context.cwd, policy.cwd)))
    elif policy.cwd is not None:
        from sandlock_policy.paths import expand_path  # loaded by resolve anyway

        try:
            path = expand_path(policy.cwd, cwd=context.cwd, home=context.home, variables=context.env)
        except RuleError:
            return resolve(policy, features, context)  # which tells it with all other faults
        policy = policy.replace(cwd=os.path.realpath(path))
    return resolve(policy, features, context)


class _Known:
    """The last plan of one policy, with all that it was made from."""

    __slots__ = ("context", "environment", "features", "plan", "policy")

    def __init__(
        self, policy: Policy, features: HostFeatures, context: Context, plan: Plan, environment: object
    ) -> None:
        self.policy = policy
        self.features = features
        self.context = context
        self.plan = plan
        self.environment = environment


_known: dict[int, _Known] = {}


def prepare(
    policy: Policy, command: Command, features: HostFeatures, *, hooked: bool = False
) -> tuple[Context, Program, Plan]:
    """Return the context of one run of `command`, the command, and the plan for it.

    Raises:
        PolicyError, LayerMissingError: as `resolve`.
        ConfinementError: the current directory is gone.

    """
    context, program = make_context(policy, command, hooked=hooked)
    if program is None:
        raise TypeError("a command is a list of strings, not None")
    known = _known.get(id(policy))
    # The bytes that os.environ holds: comparing them costs a hundredth of decoding them.
    environment = getattr(os.environ, "_data", None)
    if (
        known is not None
        and known.policy is policy
        and known.features is features
        and known.environment == environment
        and _same_place(known.context, context)
    ):
        return context, program, known.plan
    plan = plan_for(policy, context, features)
    # A policy's directory is looked up, and so are devices, when it is resolved: neither is seen from here.
    if environment is not None and policy.cwd is None and policy.gpu_devices is None:
        if len(_known) >= _KEPT:
            _known.clear()
        _known[id(policy)] = _Known(policy, features, context, plan, environment.copy())
    return context, program, plan


def _same_place(one: Context, other: Context) -> bool:
    return (
        one.cwd == other.cwd
        and one.home == other.home
        and one.uid == other.uid
        and one.gid == other.gid
        and one.program == other.program
        and one.program_folders == other.program_folders
        and one.hooked == other.hooked
    )


class Parts:
    """What a plan holds, as the launch takes it.

    Attributes:
        env: `NAME=value` strings.
        cwd: where the program starts.
        filter: the seccomp program.
        rules: the file rules.
        optional: paths of rules that may be missing.

    """

    __slots__ = ("cwd", "env", "filter", "optional", "plan", "rules")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.env = encode_env(plan.env)
        self.cwd = os.fsencode(plan.cwd)
        self.filter = compile_filter(native_name(), plan.filter)
        self.rules = encode_rules(plan.fs_rules)
        self.optional = frozenset([path for path, _, must in plan.fs_rules if not must])


_parts: dict[int, Parts] = {}


def parts_of(plan: Plan) -> Parts:
    """Return the parts of `plan`, made once."""
    parts = _parts.get(id(plan))
    if parts is None or parts.plan is not plan:
        parts = Parts(plan)
        if len(_parts) >= _KEPT:
            _parts.clear()
        _parts[id(plan)] = parts
    return parts


def encode_env(env: Mapping[str, str]) -> Strings:
    """Return the environment as C strings."""
    return Strings([os.fsencode(f"{name}={value}") for name, value in env.items()])


def encode_rules(rules: Iterable[tuple[str, int, bool]]) -> PathRules:
    """Return file rules as Landlock takes them."""
    return PathRules([(os.fsencode(path), access if must else access | OPTIONAL) for path, access, must in rules])
