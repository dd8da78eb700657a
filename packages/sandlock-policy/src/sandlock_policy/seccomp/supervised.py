"""The filter of a sandbox with a supervisor: what is denied stays denied, and what handlers want is notified."""

from __future__ import annotations

from sandlock_policy.seccomp.default import default_spec
from sandlock_policy.seccomp.opcodes import RET_USER_NOTIF
from sandlock_policy.seccomp.rules import DENY, FilterSpec, Rule, errno_action, one_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_arch import Architecture
    from sandlock_policy.seccomp.options import FilterOptions

__all__ = ["SUPERVISED", "WATCHED", "compile_supervised", "supervised_spec"]

_CACHE_SIZE = 64
_cache: dict[tuple[str, FilterOptions, tuple[Rule, ...]], bytes] = {}

# What would take notifications from the supervisor, or what it must see of the child.
SUPERVISED: tuple[Rule, ...] = (
    # linux/seccomp.h, 3.17: SECCOMP_SET_MODE_FILTER. Of several filters the strictest action wins, and ERRNO is
    # stricter than USER_NOTIF: a program could answer its own notified calls (SEC-10).
    Rule("seccomp", (one_of(0, 1),), DENY, "a filter of its own would hide calls from the supervisor"),
    Rule("prctl", (one_of(0, 22),), DENY, "PR_SET_SECCOMP: as seccomp(2)"),  # linux/prctl.h, 2.6.23
    # linux/prctl.h, 2.3.20: PR_SET_DUMPABLE. Its memory could not be read any more (NOT-08). It succeeds and changes
    # nothing, because programs that guard a secret by it stop when it fails. Nobody inside may trace them (ptrace is
    # denied), but by a granted /proc others of the same sandbox read their memory.
    Rule("prctl", (one_of(0, 4),), errno_action(0), "PR_SET_DUMPABLE: would blind the supervisor; does nothing"),
)

# Before the denial of all of userfaultfd(2). fcntl.h: O_CLOEXEC; linux/userfaultfd.h, 5.11: UFFD_USER_MODE_ONLY.
WATCHED = Rule(
    "userfaultfd",
    (one_of(0, 0x80000 | 1),),
    RET_USER_NOTIF,
    "a checkpoint's tracker makes one in a thread that it holds; everybody else is refused",
)


def supervised_spec(options: FilterOptions, traps: Sequence[Rule]) -> FilterSpec:
    """Return the rules for `options` with `traps` behind them: a call is notified only where nothing denies it.

    Raises `PolicyError` as `default_spec` does.
    """
    foremost = (*SUPERVISED, WATCHED) if options.watched else SUPERVISED
    return FilterSpec((*foremost, *default_spec(options).rules, *traps))


def compile_supervised(arch: Architecture, options: FilterOptions, traps: Sequence[Rule]) -> bytes:
    """Return the program for `supervised_spec`; the same options and traps are compiled once.

    Raises `PolicyError` as `default_spec` does, and `AssemblyError` for more than 4,096 instructions.
    """
    from sandlock_policy.seccomp.compile import compile_spec  # lazy: as the precompiled filters of `filter` go without

    key = (arch.name, options, tuple(traps))
    program = _cache.get(key)
    if program is None:
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        program = _cache[key] = compile_spec(arch, supervised_spec(options, traps))
    return program
