"""`sandlock run --interactive`: the program has a terminal of its own, which the caller's passes on to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_cli.relay import give_up, keep_branch, throttle_as
from sandlock_runtime.tty import Terminal, with_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_policy import Plan, Policy
    from sandlock_runtime import Result
    from sandlock_runtime.life import Life
    from sandlock_runtime.streams import Stream

__all__ = ["run_at_terminal"]


def run_at_terminal(
    policy: Policy,
    command: list[str],
    start: Callable[[Policy, list[str], Stream, Stream], tuple[Life, Plan]],
) -> tuple[Result, Plan]:
    """Run `command`, launched by `start`, to its end."""
    with Terminal() as terminal:
        life, plan = start(with_terminal(policy), command, terminal, terminal)
        try:
            throttle_as(plan, life)
            result = terminal.run(life, policy)
        except BaseException:
            give_up(life)
            raise
    keep_branch(life)
    return result, plan
