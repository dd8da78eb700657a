"""`sandlock check`: what this host can enforce, found by calling it, and what to do about the rest."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass

from sandlock_cli.failure import lines_of, printable
from sandlock_cli.help import print_verb
from sandlock_cli.host import Finding, findings
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.verbs import options_of
from sandlock_policy import preset
from sandlock_policy.data.protections import PROTECTIONS
from sandlock_policy.errors import LayerMissingError, SandlockError
from sandlock_runtime import Sandbox, host_features
from sandlock_runtime.prepare import make_context, plan_for
from sandlock_sys.probe import probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy import Policy, Protection

__all__ = ["Outcome", "examine", "main"]

_FORCED = "SANDLOCK_LANDLOCK_ABI"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the preset `default` comes to here.

    Attributes:
        protections: each protection with its state and layer, as a run would have them.
        error: why a run is refused, or "".
        enforced: a confined program ran, and every protection was active.

    """

    protections: tuple[Protection, ...]
    error: str
    enforced: bool


def main(words: list[str]) -> int:
    """Print the findings; 0 where the preset `default` is enforced in full, 1 otherwise."""
    values, rest = parse(words, table(options_of("check")), "check")
    if values.get("help"):
        return print_verb("check")
    if rest:
        raise UsageError(f"check takes no {rest[0]}", "check")
    found = findings(probe())
    outcome = examine()
    if values.get("json"):
        print(json.dumps(_as_json(found, outcome)))
    else:
        sys.stdout.write(_as_text(found, outcome))
    return 0 if outcome.enforced else 1


def examine() -> Outcome:
    """Run a program under the preset `default`, and return what was enforced."""
    policy = preset("default")
    command = ["/bin/sh", "-c", ":"]
    try:
        with Sandbox(policy) as sandbox:
            result = sandbox.run(command, timeout=30)
    except LayerMissingError as error:
        return Outcome(_degraded(policy, command, error.protections), lines_of(error)[0], enforced=False)
    except (SandlockError, OSError) as error:
        return Outcome((), lines_of(error)[0], enforced=False)
    if not result.success:
        said = result.stderr.decode("utf-8", "replace").strip()
        return Outcome(result.protections, f"a confined /bin/sh ended with {result.reason}: {said}", enforced=False)
    return Outcome(result.protections, "", enforced=all(row.state == "active" for row in result.protections))


def _degraded(policy: Policy, command: list[str], missing: tuple[str, ...]) -> tuple[Protection, ...]:
    """Return the protections of a run that agrees to go without what is missing."""
    willing = policy.replace(allow_degraded=missing)
    context, _ = make_context(willing, command)
    return plan_for(willing, context, host_features()).protections


def _as_text(found: list[Finding], outcome: Outcome) -> str:
    lines = ["What the kernel and the surroundings of this process offer:", ""]
    width = max(len(row.name) for row in found)
    for row in found:
        lines.append(f"  {row.state:<8}  {row.name:<{width}}  {printable(row.why)}".rstrip())
        if row.remedy:
            lines.append(f"{'':14}{'':{width - 2}}  -> {row.remedy}")
    lines += ["", "What the preset `default` comes to here:", ""]
    if _FORCED in os.environ:
        lines.insert(-1, f"(with {_FORCED}={printable(os.environ[_FORCED])})")
    width = max([len(protection.name) for protection in outcome.protections], default=0)
    for protection in outcome.protections:
        what = PROTECTIONS[protection.name][0] + (f" ({protection.detail})" if protection.detail else "")
        lines.append(f"  {protection.state:<8}  {protection.name:<{width}}  {protection.layer:<9}  {what}")
    if outcome.error:
        lines += ["", f"A run is refused: {printable(outcome.error)}"]
    lines += ["", "It is enforced in full." if outcome.enforced else "It is NOT enforced in full.", ""]
    return "\n".join(lines)


def _as_json(found: list[Finding], outcome: Outcome) -> dict[str, object]:
    names = ("name", "state", "layer", "detail")
    return {
        "schema": 1,
        "enforced": outcome.enforced,
        "error": outcome.error,
        "features": [asdict(row) for row in found],
        "protections": [{name: getattr(row, name) for name in names} for row in outcome.protections],
    }
