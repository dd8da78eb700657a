"""`sandlock run --explain`: what a run would be allowed, and which layer holds the rest; nothing is run."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from sandlock_cli.failure import printable
from sandlock_policy.explain import explain as explain_plan
from sandlock_policy.explain import explain_text
from sandlock_policy.seccomp.filter import describe_filter
from sandlock_runtime import host_features
from sandlock_runtime.prepare import make_context, plan_for

if TYPE_CHECKING:
    from sandlock_policy import Policy

__all__ = ["explain"]


def explain(policy: Policy, command: list[str], *, as_json: bool) -> int:
    """Print the policy as a profile, then each protection and grant with the layer that enforces it."""
    enforced = policy
    if policy.image is not None:
        from sandlock_runtime.images.running import as_in_image  # lazy: few policies have one

        enforced, command = as_in_image(policy, command)  # type: ignore[assignment]  # a list comes back
    context, program = make_context(enforced, command or None)
    plan = plan_for(enforced, context, host_features())
    there = tuple([rule for rule in plan.fs_rules if rule[2] or os.path.exists(rule[0])])
    plan = replace(plan, fs_rules=there)
    calls = len({row[0] for row in describe_filter(plan.filter)})
    if as_json:
        rows = [dict(zip(("what", "layer", "detail"), row, strict=True)) for row in explain_plan(plan)]
        print(json.dumps({"profile": policy.to_toml(), "rules": rows, "judged_calls": calls}))
        return 0
    found = f"# The program is {printable(program.path)}\n" if program is not None and program.path else ""
    profile = policy.to_toml() or "# nothing is granted\n"
    sys.stdout.write(
        f"# The policy, as a profile (sandlock run --profile-file FILE)\n{profile}\n"
        f"# What enforces it on this host\n{found}{explain_text(plan)}"
        f"# The filter judges {calls} system calls; those that are newer than it knows do not exist inside\n"
    )
    return 0
