"""`sandlock run --interactive`: the program has a terminal of its own, which the caller's passes on to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_runtime.tty import Terminal, with_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result
    from sandlock_runtime.life import Life
    from sandlock_runtime.streams import Stream

__all__ = ["run_at_terminal"]

_KILLED_WITHIN_S = 5.0  # a process that is stuck in the kernel outlives even its SIGKILL


def run_at_terminal(
    policy: Policy,
    command: list[str],
    audit: str | None,
    start: Callable[[Policy, list[str], str | None, Stream, Stream], tuple[Life, Plan]],
) -> tuple[Result, Plan]:
    """Run `command`, launched by `start`, to its end."""
    with Terminal() as terminal:
        life, plan = start(with_terminal(policy), command, audit, terminal, terminal)
        try:
            if plan.max_cpu is not None:
                from sandlock_runtime.throttle import throttle  # lazy: costs a thread, paid by who asks for it

                throttle(life, plan.max_cpu)
            result = terminal.run(life, policy)
        except BaseException:
            life.kill()
            if life.wait(_KILLED_WITHIN_S):
                life.finish()
            raise
    if life.branch is not None and life.branch.pending:
        life.branch.keep()  # nobody decides about it in this process
    return result, plan
