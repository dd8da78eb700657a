"""`sandlock run --audit FILE`: the launch with a record of everything from before it until after its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_cli.failure import warn
from sandlock_runtime import host_features
from sandlock_runtime.audit import AuditLog, refuse_tampering
from sandlock_runtime.hooks import Hooks
from sandlock_runtime.launch import launch
from sandlock_runtime.prepare import make_context, plan_for

if TYPE_CHECKING:
    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result
    from sandlock_runtime.life import Life
    from sandlock_runtime.streams import Stream

__all__ = ["launch_audited"]


def launch_audited(
    path: str,
    policy: Policy,
    command: list[str],
    *,
    stdin: Stream = None,
    stdout: Stream,
    stderr: Stream,
    hooks: Hooks | None = None,
) -> tuple[Life, Plan]:
    """Open the record, start `command`, and let the record be closed with the run; errors are those of `launch`.

    Raises:
        PolicyError: the program could write the record itself.
        ConfinementError: the file cannot be used.

    """
    context, _ = make_context(policy, command)
    refuse_tampering(plan_for(policy, context, host_features()), path)
    log = AuditLog(path, policy)
    start = launch
    if policy.name is not None:
        from sandlock_runtime.registration import launch_registered  # lazy: few runs have a name

        start = launch_registered
    try:
        log.start(command)
        hooks = (Hooks() if hooks is None else hooks).also_told(log, log.note)
        life, plan = start(policy, command, stdin=stdin, stdout=stdout, stderr=stderr, hooks=hooks)
    except BaseException as error:
        log.fail(error)
        raise
    try:
        log.launched(life.pid, life.guard_pid, life.protections)
    except BaseException:  # nobody would have the life to end it
        life.kill()
        life.finish()
        raise
    before = life.at_end

    def end(result: Result) -> None:
        if before is not None:
            before(result)
        log.end(result)
        if log.lost:
            warn(f"{log.lost} events could not be written to {path}")

    life.at_end = end
    return life, plan
