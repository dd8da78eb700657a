"""`sandlock run`: one program in a sandbox, with the caller's streams, signals and exit status. LEAN."""

from __future__ import annotations

import os

from sandlock_cli.options import UsageError, parse, run_options, table
from sandlock_cli.relay import Relay, give_up, keep_branch, throttle_as
from sandlock_policy.fields import FIELD_BY_NAME
from sandlock_policy.presets import preset
from sandlock_runtime.launch import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result
    from sandlock_runtime.life import Life
    from sandlock_runtime.streams import Stream

__all__ = ["add_fields", "main", "make_policy", "run_status"]

_TIMED_OUT = 124
_NOT_SET_UP = 125
_PIPE = -1  # subprocess.PIPE, and sandlock_runtime.PIPE
_OWN = ("preset", "profile", "profile_file", "shell", "json", "status_fd", "explain", "dry_run", "audit", "quiet",
        "interactive", "trackable")  # fmt: skip
# What --json keeps of each stream; the rest is counted, and dropped: the program must not fill the caller's memory.
_CAPTURED = 64 << 20


def main(words: list[str]) -> int:
    """Run a command in a sandbox and return its exit status; `help.STATUSES` lists them."""
    values, command = parse(words, table(run_options()), "run", command=True)
    if values.pop("help", False):
        from sandlock_cli.help import print_verb  # lazy: the text is long

        return print_verb("run")
    own = {name: values.pop(name, None) for name in _OWN}
    if own["shell"] is not None:
        command = ["/bin/sh", "-c", own["shell"], *(["sh", *command] if command else ())]
    if own["explain"]:
        from sandlock_cli.explain import explain  # lazy: it runs nothing

        return explain(make_policy(own, values), command, as_json=bool(own["json"]))
    if not command and "image" not in values:
        raise UsageError("run needs a command: sandlock run [OPTION...] [--] COMMAND [ARGUMENT...]", "run")
    if own["interactive"] and own["json"]:
        raise UsageError("--interactive shows the output, and --json captures it: choose one", "run")
    status_fd = _open_fd(own["status_fd"])
    if status_fd is None and not own["json"]:
        policy = make_policy(own, values)
        result, plan = _run(policy, command, own, capture=False)
        status = run_status(result)
        if status or result.branch or own["dry_run"]:
            from sandlock_cli.outcome import tell_outcome  # lazy: a good run has nothing to tell

            tell_outcome(result, plan, policy, command, own, failed=status != 0)
        return status
    from sandlock_cli.report import report_failure, report_result  # lazy: json takes longer than a launch

    try:
        policy = make_policy(own, values)
        result, plan = _run(policy, command, own, capture=bool(own["json"]))
    except Exception as error:
        report_failure(error, status_fd, to_stdout=bool(own["json"]))
        raise
    return report_result(result, plan, policy, command, run_status(result), status_fd, own)


def make_policy(own: dict[str, Any], values: dict[str, Any]) -> Policy:
    """Return the policy that the options describe; one whose changes are dropped, with --dry-run."""
    if own.get("dry_run"):
        from sandlock_cli.dry_run import dry_policy, split_branch  # lazy: few runs are dry

        branch, others = split_branch(values)
        return dry_policy(_described(own, others), branch)
    return _described(own, values)


def _described(own: dict[str, Any], values: dict[str, Any]) -> Policy:
    """Return the policy that the options describe: preset and profiles, merged in this order, then the fields.

    The preset is `default` where neither is named. A field of the command line is added to a list or a mapping, and
    stands instead of any other value.
    """
    policy = preset(own["preset"]) if own["preset"] is not None else None
    if own["profile"] or own["profile_file"]:
        from sandlock_policy.profile.store import load_profile, load_profile_file  # lazy: tomllib is slow to import

        profiles = [load_profile(name) for name in own["profile"] or ()]
        profiles += [load_profile_file(path) for path in own["profile_file"] or ()]
        for profile in profiles:
            policy = profile if policy is None else policy.merge(profile)
    if policy is None:
        policy = preset("default")
    return add_fields(policy, values)


def add_fields(policy: Policy, values: dict[str, Any]) -> Policy:
    """Return `policy` with the fields of the command line: added to lists and mappings, in the place of all else."""
    if not values:
        return policy
    given = policy.given()
    fields: dict[str, Any] = {}
    for name, value in values.items():
        field = FIELD_BY_NAME[name]
        if field.shape == "list":
            fields[name] = (*given.get(name, ()), *value)  # type: ignore[misc]  # the table says that it is a tuple
        elif field.shape == "mapping":
            _add_mapping(name, value, given, fields)
        else:
            fields[name] = value
    return policy.replace(**fields)


def _add_mapping(name: str, items: list[str], given: dict[str, Any], fields: dict[str, Any]) -> None:
    """Put `items` after what the policy has, instead of entries with the same key."""
    separator = ":" if name == "fs_mount" else "="
    keys = [item.partition(separator)[0] for item in items]
    groups = {name: items}
    if name == "fs_mount":
        from sandlock_policy.rules.mounts import split_mounts  # lazy: few runs mount anything

        writable, read_only = split_mounts(items)
        groups = {"fs_mount": writable, "fs_mount_ro": read_only}  # type: ignore[dict-item]
    for field, added in groups.items():
        old = given.get(field, {})
        fields[field] = [*[pair for pair in old.items() if pair[0] not in keys], *added]


def _run(policy: Policy, command: list[str], own: dict[str, Any], *, capture: bool) -> tuple[Result, Plan]:
    """Run `command` to its end; with `capture` its output is in the result."""

    def start(policy: Policy, command: list[str], stdin: Stream, stream: Stream) -> tuple[Life, Plan]:
        return _start(policy, command, own, stdin, stream)

    if policy.unix_allow and not own["quiet"]:
        from sandlock_cli.failure import warn  # lazy, as the next: few runs reach one
        from sandlock_policy.services import services_of

        if told := services_of(policy.unix_allow):
            warn(f"--unix-allow: {told}")
    if policy.image is not None:
        from sandlock_cli.images import unpack  # lazy: as below

        unpack(policy.image, quiet=bool(own["quiet"]))
    if own["interactive"]:
        from sandlock_cli.interactive import run_at_terminal  # lazy: `signal` takes longer than a launch

        return run_at_terminal(policy, command, start)
    relay = Relay(policy.timeout, policy.grace)
    try:
        stream = _PIPE if capture else None
        life, plan = start(policy, command, None, stream)
        try:
            throttle_as(plan, life)
            relay.run(life, _CAPTURED if capture else None)
        except BaseException:
            give_up(life)
            raise
        result = life.finish()
        keep_branch(life)
        return result, plan
    finally:
        relay.close()


def _start(policy: Policy, command: list[str], own: dict[str, Any], stdin: Stream, stream: Stream) -> tuple[Life, Plan]:
    """Launch `command`, with a record where one is wanted, and listed where it has a name."""
    hooks = None
    if own["trackable"]:
        from sandlock_runtime.hooks import Hooks  # lazy: few runs are watched

        hooks = Hooks(trackable=True)
    if own["audit"] is not None:
        from sandlock_cli.auditing import launch_audited  # lazy: json takes longer than a launch

        return launch_audited(own["audit"], policy, command, stdin=stdin, stdout=stream, stderr=stream, hooks=hooks)
    if policy.name is not None:
        from sandlock_runtime.registration import launch_registered  # lazy: as above

        return launch_registered(policy, command, stdin=stdin, stdout=stream, stderr=stream, hooks=hooks)
    return launch(policy, command, stdin=stdin, stdout=stream, stderr=stream, hooks=hooks)


def run_status(result: Result) -> int:
    """Return the exit status of the command for what became of a run; `help.STATUSES` lists them."""
    if result.reason == "TIMEOUT":
        return _TIMED_OUT
    if result.signal is not None:
        return 128 + result.signal
    # The program succeeded, and its changes could not be committed.
    unsettled = result.exit_code == 0 and not result.success and bool(result.error)
    return _NOT_SET_UP if unsettled or result.exit_code < 0 else result.exit_code


def _open_fd(text: str | None) -> int | None:
    """Return the fd that --status-fd names, which must be open."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise UsageError(f"--status-fd needs the number of a file descriptor, not {text!r}", "run")
    try:
        os.fstat(int(text))
    except OSError:  # EBADF is the only error of fstat(2) for a number
        raise UsageError(f"--status-fd {text} is not open: add {text}>FILE to the command line", "run") from None
    return int(text)
