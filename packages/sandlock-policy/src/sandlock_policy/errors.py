"""What can be wrong with a policy, or with the host that should enforce it."""

from __future__ import annotations

from sandlock_arch.errors import SandlockError
from sandlock_policy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["LayerMissingError", "PolicyError", "Problem", "RuleError", "SandlockError"]


_LONGEST = 200  # characters of a value that a message repeats


class RuleError(ValueError):
    """One value does not follow its grammar; `PolicyError` collects these with the names of their fields.

    `reason` is the fact, `remedy` what to write instead, and `position` the index of the offending character in the
    text that was given (None where the fault is not at one place).
    """

    def __init__(self, reason: str, remedy: str = "", position: int | None = None) -> None:
        """Say what is wrong, and where we know it, what to write instead."""
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.position = position


@record(frozen=True, slots=True)
class Problem:
    """One fault of a policy.

    `field` is the TOML path (`limits.memory`, `filesystem.read[2]`), or the Python name of a field that has no place in
    a profile; `value` is what was given, as text.
    """

    field: str
    value: str
    reason: str
    remedy: str = ""
    position: int | None = None

    def __str__(self) -> str:
        """Render as one line, with a second line that points at the character where we know it."""
        name = self.field
        if name and self.position is None and self.value.strip("'\"") not in self.reason:
            name += f" = {self.value[:_LONGEST]}"
        text = f"{name}: {self.reason}" if name else self.reason
        if self.remedy:
            text += f"; {self.remedy}"
        if self.position is not None:
            text += f"\n    {self.value}\n    {' ' * self.position}^"
        return text


class PolicyError(SandlockError, ValueError):
    """A policy is wrong; `problems` has every fault, not only the first."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Collect `problems`, of which there is at least one."""
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Give the one fault in a line, or count them and list each on its own."""
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [str(problem).replace("\n", "\n  ") for problem in self.problems]
        return f"{len(lines)} problems in the policy:\n  " + "\n  ".join(lines)


class LayerMissingError(SandlockError):
    """The host lacks a kernel layer that the policy needs and did not agree to go without.

    `layer` is `landlock`, `namespace` or `supervisor`; `protection` the first protection that would be lost and
    `protections` all of them; `remedy` says what to do.
    """

    def __init__(self, layer: str, protections: Sequence[str], reason: str, remedy: str) -> None:
        """Name the layer, the protections that would be lost, why, and what to do."""
        super().__init__(f"{reason}; {remedy}")
        self.layer = layer
        self.protections = tuple(protections)
        self.protection = self.protections[0]
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[LayerMissingError], tuple[str, tuple[str, ...], str, str]]:
        """Pickle by the constructor's arguments, which are not those of `Exception`."""
        return type(self), (self.layer, self.protections, self.reason, self.remedy)
