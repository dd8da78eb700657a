"""`sandlock restore`: an image comes back to life in a sandbox, with the caller's streams, signals and exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandlock_checkpoint import RestoreError, load
from sandlock_cli.failure import NOT_SET_UP, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.outcome import tell_outcome
from sandlock_cli.relay import Relay, give_up, keep_branch, throttle_as
from sandlock_cli.run import add_fields, make_policy, run_status
from sandlock_cli.verbs import options_of
from sandlock_policy.model import Policy
from sandlock_runtime.hooks import Hooks
from sandlock_runtime.launch import launch
from sandlock_runtime.registration import launch_registered
from sandlock_runtime.restoring import restore_image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock_checkpoint import Checkpoint, Unsupported
    from sandlock_runtime import Result
    from sandlock_runtime.instead import Instead
    from sandlock_runtime.life import Life

__all__ = ["main"]

_OWN = ("preset", "profile", "profile_file")


def main(words: list[str]) -> int:
    """Restore it, and return the exit status of its first process; 125 where it cannot be restored."""
    values, rest = parse(words, table(options_of("restore")), "restore")
    if values.pop("help", False):
        return print_verb("restore")
    if len(rest) != 1:
        raise UsageError("restore needs one directory, with the image", "restore")
    allow = frozenset(values.pop("allow", ()))
    saved = values.pop("saved_policy", False)
    own: dict[str, Any] = {name: values.pop(name, None) for name in _OWN}
    hooks = Hooks(trackable=True) if values.pop("trackable", False) else None
    if saved and any(own.values()):
        raise UsageError("--saved-policy stands in the place of presets and profiles", "restore")
    with load(rest[0]) as checkpoint:
        try:
            policy = add_fields(_saved(checkpoint, rest[0]), values) if saved else make_policy(own, values)
            result, life = _restore(checkpoint, policy, allow, hooks)
        except RestoreError as error:
            return _explain(error, saved=bool(saved))
    status = run_status(result)
    told = {**own, "dry_run": False, "quiet": False}
    tell_outcome(result, life.plan, policy, [rest[0]], told, failed=False)
    return status


def _saved(checkpoint: Checkpoint, path: str) -> Policy:
    if not checkpoint.policy:
        raise UsageError(f"{path} has no policy: its processes ran in no sandbox", "restore")
    return Policy.from_toml(checkpoint.policy)


def _restore(checkpoint: Checkpoint, policy: Policy, allow: frozenset[str], hooks: Hooks | None) -> tuple[Result, Life]:
    """Restore, and pass streams and signals on until the end."""
    begin = launch if policy.name is None else launch_registered
    lives: list[Life] = []

    def start(command: list[bytes], instead: Instead) -> Life:
        life, _ = begin(policy, command, instead=instead, hooks=hooks)
        lives.append(life)
        return life

    relay = Relay(policy.timeout, policy.grace)
    try:
        life, skipped = restore_image(checkpoint, policy, start, allow=allow)
        _tell_skipped(skipped)
        throttle_as(life.plan, life)
        relay.run(life, None)
        result = life.finish()
    except BaseException:
        for life in lives:
            give_up(life)
        raise
    finally:
        relay.close()
    keep_branch(life)
    return result, life


def _tell_skipped(skipped: Iterable[Unsupported]) -> None:
    for one in skipped:
        if one.kind != "id":  # most programs do not mind, and `Ids.KEEP` is for those that do
            warn(f"not restored: {one.name}: {one.reason}")


def _explain(error: RestoreError, *, saved: bool) -> int:
    warn(f"it was not restored: {error}")
    for one in error.skipped:
        allowed = "policy" if one.kind == "policy" else one.name
        warn(f"{one.name}: {one.reason}; --allow {allowed} goes on all the same")
    if error.step == "pid":
        warn("its processes wait for each other by their ids: save it with --fs-read /proc, where it has its own; "
             "--allow id goes on with other ids")  # fmt: skip
    elif not saved and not error.skipped:
        warn("--saved-policy restores it under the policy it was saved under")
    return NOT_SET_UP
