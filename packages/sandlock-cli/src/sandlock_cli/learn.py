"""`sandlock learn`: a program is watched, and what it used becomes a profile."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import printable, warn
from sandlock_cli.help import print_verb
from sandlock_cli.hints import hints_after
from sandlock_cli.mentions import read_command
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.relay import Relay, give_up
from sandlock_cli.run import run_status
from sandlock_cli.verbs import options_of
from sandlock_notif.handlers.observing import Observer
from sandlock_policy.profile.store import load_profile_file, profile_path, write_profile_file
from sandlock_policy.programs import program_folders
from sandlock_policy.rules.environment import parse_variable
from sandlock_runtime import host_features
from sandlock_runtime.audit import written_below
from sandlock_runtime.hooks import Hooks
from sandlock_runtime.launch import launch
from sandlock_runtime.learned_paths import Place
from sandlock_runtime.learning import observing_policy, own_folders, propose
from sandlock_runtime.masking import Masker, is_secret_name
from sandlock_runtime.prepare import make_context, plan_for

if TYPE_CHECKING:
    from sandlock_notif.observed import Observed
    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result
    from sandlock_runtime.learning import Learned

__all__ = ["main"]

_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_ADDRESS = re.compile(r"[\d.]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*")


def main(words: list[str]) -> int:
    """Watch the command in `words`, write the profile, and return the command's exit status; 1 where it is no good."""
    values, command = parse(words, table(options_of("learn")), "learn", command=True)
    if values.get("help"):
        return print_verb("learn")
    if not command:
        raise UsageError("learn needs a command: sandlock learn [OPTION...] [--] COMMAND [ARGUMENT...]", "learn")
    target = _target(values, command)
    old = _old(target, values)
    env = dict(parse_variable(item) for item in values.get("env", ()))
    policy = observing_policy(env, values.get("timeout"))
    observer = Observer()
    result, plan = _run(policy, command, Hooks(observers=(observer,)))
    learned = _learn(observer.seen, env, command, plan, exact=bool(values.get("exact")))
    _judge(result, learned.notes)
    profile = learned.policy if old is None else old.merge(learned.policy)
    text = _text(profile, policy, command, result, learned.notes)
    grant = _tamperable(profile, target)
    if target == "-" or grant:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        os.makedirs(os.path.dirname(os.path.abspath(target)), mode=0o700, exist_ok=True)
        write_profile_file(target, text)
    for note in learned.notes:
        warn(note)
    if grant:
        warn(f"{target} is not written: it lies below {grant}, which the profile lets the program write, so it could "
             "grant itself more; name another file with -o")  # fmt: skip
        return 1
    if target != "-":
        warn(f"the profile is {target}; to use it: {_usage(values, target, command)}")
    if values.get("verify") and not _verified(profile, command, run_status(result)):
        return 1
    return run_status(result)


def _target(values: dict[str, Any], command: list[str]) -> str:
    """Return the file to write, "-" for stdout."""
    output: str | None = values.get("output")
    if output is not None:
        if "name" in values:
            raise UsageError("give either --name or --output", "learn")
        return output
    name = values.get("name") or _NAME.sub("-", os.path.basename(command[0])).lstrip("-._") or "learned"
    return profile_path(name)


def _old(target: str, values: dict[str, Any]) -> Policy | None:
    """Return the profile that is to be added to; refuse to lose one before anything has run."""
    if values.get("merge") and values.get("replace"):
        raise UsageError("give either --merge or --replace", "learn")
    if target == "-" or not os.path.lexists(target):
        return None
    if values.get("merge"):
        return load_profile_file(target)
    if not values.get("replace"):
        raise UsageError(f"{target} exists: add to it with --merge, write it anew with --replace, or choose another "
                         "with --name or --output", "learn")  # fmt: skip
    return None


def _run(policy: Policy, command: list[str], hooks: Hooks | None = None) -> tuple[Result, Plan]:
    """Run `command` to its end, with the caller's streams and signals."""
    relay = Relay(policy.timeout, policy.grace)
    try:
        life, plan = launch(policy, command, hooks=hooks)
        try:
            relay.run(life, None)
        except BaseException:
            give_up(life)
            raise
        return life.finish(), plan
    finally:
        relay.close()


def _learn(seen: Observed, env: dict[str, str | None], command: list[str], plan: Plan, *, exact: bool) -> Learned:
    home = os.path.realpath(os.path.expanduser("~"))
    folders = [folder for path in sorted(seen.runs) for folder in program_folders(path, home)]
    _, program = make_context(observing_policy({}, None), command)
    if program is not None and program.path:
        folders += program_folders(program.path, home)
    mentioned = [host for host, _ in read_command(command, plan.cwd).endpoints]
    asked = [name for names in seen.asked.values() for name in names]
    kept = {name: None if value is not None and is_secret_name(name) else value for name, value in env.items()}
    learned = propose(seen, Place(home, folders, own_folders()), kept, _addresses([*mentioned, *asked]), exact=exact)
    learned.notes += [
        f"the value of {name} is not in the profile, as it may be a secret: it is taken from the caller's environment"
        for name, value in env.items()
        if value != kept[name]
    ]
    return learned


def _addresses(names: list[str]) -> dict[str, set[str]]:
    """Return the addresses of the host names among `names`, as far as they can be found now."""
    found: dict[str, set[str]] = {}
    for name in dict.fromkeys(names):
        if not name or _ADDRESS.fullmatch(name):
            continue
        try:
            found[name] = {str(row[4][0]) for row in socket.getaddrinfo(name, None)}
        except (OSError, UnicodeError):  # it does not exist, or is no name: its address stands for itself
            continue
    return found


def _judge(result: Result, notes: list[str]) -> None:
    """Say what the end of the run means for the profile."""
    if result.error:
        notes.append(result.error)
    if not result.success:
        how = f"signal {result.signal}" if result.signal is not None else f"exit code {result.exit_code}"
        notes.append(f"the program ended with {result.reason}, {how}: what it would have done after that is not known")
    notes += [
        f"{denial.syscall} {denial.target} was refused while it was watched: {denial.reason}"
        for denial in result.denials
    ]


def _text(policy: Policy, watched: Policy, command: list[str], result: Result, notes: list[str]) -> str:
    """Return the profile, with what a reader should know of it in front."""
    usage = result.usage
    peak = f", at most {usage.peak_bytes / (1 << 20):.0f} MiB in one process" if usage.peak_bytes else ""
    lines = [
        f"Learned from one run of: {shlex.join(Masker(watched, os.environ).words(command))}",
        "It shows one way through the program: other arguments or input may need more (sandlock learn --merge).",
        f"It took {usage.wall_s:.1f} s{peak}; no limit is set: see timeout, memory and processes of [limits].",
        *notes,
    ]
    return "".join(f"# {printable(line)}\n" for line in lines) + "\n" + policy.to_toml()


def _tamperable(policy: Policy, target: str) -> str:
    """Return the grant by which a program under `policy` could rewrite its own profile, or ""."""
    if target == "-":
        return ""
    context, _ = make_context(policy, None)
    return written_below(plan_for(policy, context, host_features()), os.path.abspath(target))


def _usage(values: dict[str, Any], target: str, command: list[str]) -> str:
    if values.get("output") is not None:
        return f"sandlock run --profile-file {shlex.quote(target)} -- {shlex.join(command)}"
    name = os.path.basename(target).removesuffix(".toml")
    return f"sandlock run -p {name} -- {shlex.join(command)}"


def _verified(policy: Policy, command: list[str], expected: int) -> bool:
    """Run the command under its profile, and tell whether it ends as it did before."""
    result, plan = _run(policy, command)
    status = run_status(result)
    if status == expected:
        warn("under the profile it ends the same way")
        return True
    warn(f"under the profile it ends with status {status}, not {expected}")
    for line in hints_after(command, plan, result, policy, implicit=False):
        warn(line)
    return False
