"""What a filter says, before it is compiled: conditions on arguments, rules, the whole specification. LEAN."""

from __future__ import annotations

from sandlock_policy.record import record
from sandlock_policy.seccomp.opcodes import RET_ALLOW, RET_ERRNO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ABSENT",
    "ANY_BIT",
    "BETWEEN",
    "DENY",
    "ONE_OF",
    "Condition",
    "FilterSpec",
    "Group",
    "Rule",
    "between",
    "errno_action",
    "has_bits",
    "lacks_bits",
    "not_one_of",
    "one_of",
]

ONE_OF = 0  # argument & mask is one of values
ANY_BIT = 1  # argument & mask is not zero
BETWEEN = 2  # values[0] <= argument <= values[1], unsigned

_LOW_WORD = 0xFFFFFFFF
_BOTH_WORDS = 0xFFFFFFFFFFFFFFFF


def errno_action(number: int) -> int:
    """Return the filter action that makes the call fail with errno `number` without being run."""
    return RET_ERRNO | number


# asm-generic/errno-base.h and errno.h: the same numbers on all three architectures.
DENY = errno_action(1)  # EPERM
ABSENT = errno_action(38)  # ENOSYS: callers have a fallback for kernels without the call


@record(frozen=True, slots=True)
class Condition:
    """A test of one argument. Use `one_of`, `not_one_of`, `has_bits`, `lacks_bits` and `between` to make one.

    An argument whose C type is int has `wide` False: the kernel ignores its high 32 bits, so must the filter (SEC-05).
    """

    argument: int
    kind: int
    mask: int
    values: tuple[int, ...]
    wide: bool
    negate: bool


@record(frozen=True, slots=True)
class Rule:
    """If every condition holds, the call gets `action`, a seccomp return value. No condition: it always does."""

    syscall: str
    conditions: tuple[Condition, ...]
    action: int
    reason: str


@record(frozen=True, slots=True)
class FilterSpec:
    """A whole filter. For each system call its rules are tried in order and the first that matches decides.

    A call without a matching rule gets `default`. A number that is not in the architecture's table, above it or in a
    gap, gets `unreviewed`: a kernel newer than the table may have put anything there (SEC-17). Names that the
    architecture does not have are passed over.
    """

    rules: tuple[Rule, ...]
    default: int = RET_ALLOW
    unreviewed: int = ABSENT


@record(frozen=True, slots=True)
class Group:
    """System calls that are denied together.

    `allowable` says whether `extra_allow_syscalls` may lift the group: only where what remains (Landlock, no new
    privileges) still holds the sandbox shut. `action` is the answer to each of `calls`; `rules` carry their own.
    """

    reason: str
    calls: Mapping[str, str]
    rules: tuple[Rule, ...] = ()
    allowable: bool = False
    action: int = DENY


def one_of(argument: int, *values: int, mask: int | None = None, wide: bool = False) -> Condition:
    """Hold if `argument`, after `mask`, is one of `values`."""
    full = _BOTH_WORDS if wide else _LOW_WORD
    return Condition(argument, ONE_OF, full if mask is None else mask & full, values, wide, False)


def not_one_of(argument: int, *values: int, mask: int | None = None, wide: bool = False) -> Condition:
    """Hold if `argument`, after `mask`, is none of `values`."""
    full = _BOTH_WORDS if wide else _LOW_WORD
    return Condition(argument, ONE_OF, full if mask is None else mask & full, values, wide, True)


def has_bits(argument: int, mask: int, *, wide: bool = False) -> Condition:
    """Hold if any bit of `mask` is set in `argument`."""
    return Condition(argument, ANY_BIT, mask, (), wide, False)


def lacks_bits(argument: int, mask: int, *, wide: bool = False) -> Condition:
    """Hold if no bit of `mask` is set in `argument`."""
    return Condition(argument, ANY_BIT, mask, (), wide, True)


def between(argument: int, low: int, high: int, *, wide: bool = False) -> Condition:
    """Hold if `argument`, unsigned, lies between `low` and `high`, both included."""
    return Condition(argument, BETWEEN, _BOTH_WORDS if wide else _LOW_WORD, (low, high), wide, False)
