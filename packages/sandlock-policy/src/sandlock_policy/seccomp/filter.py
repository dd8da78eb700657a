"""From what a policy asks of seccomp to the program the kernel runs. LEAN.

`data/syscall_groups.py` says what is denied and why; this module chooses from it, and `compile.py` makes the program.
"""

from __future__ import annotations

from sandlock_policy.data.syscall_groups import (
    ALWAYS,
    GROUPS,
    INET_REFUSED,
    INET_TCP_ONLY,
    LISTEN_REFUSED,
    UNIX_ALLOWED,
    UNIX_REFUSED,
)
from sandlock_policy.record import record
from sandlock_policy.seccomp.compile import compile_spec
from sandlock_policy.seccomp.rules import FilterSpec, Rule, errno_action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandlock_arch import Architecture
    from sandlock_policy.errors import Problem

__all__ = ["FilterOptions", "check_names", "compile_filter", "compile_spec", "default_spec", "describe_filter"]

_EPERM = errno_action(1)  # asm-generic/errno-base.h
_CACHE_SIZE = 64
_cache: dict[tuple[str, FilterOptions], bytes] = {}


@record(frozen=True, slots=True)
class FilterOptions:
    """What a policy asks of the filter. The defaults are the strictest.

    Attributes:
        tcp: TCP sockets may be made; Landlock decides the ports. Without it no IP socket may.
        listen: listen(2) may be called.
        unix_sockets: Unix sockets of every kind may be made.
        deny_metadata: mode, owner, times, attributes and flags of files stay as they are.
        extra_deny: names of system calls and groups; they are denied whatever else is said.
        extra_allow: names of system calls and groups that are denied otherwise, and may be lifted.

    """

    tcp: bool = False
    listen: bool = False
    unix_sockets: bool = False
    deny_metadata: bool = True
    extra_deny: tuple[str, ...] = ()
    extra_allow: tuple[str, ...] = ()


def compile_filter(arch: Architecture, options: FilterOptions) -> bytes:
    """Return the filter for `options` as an array of struct sock_filter; the same options are compiled once.

    Raises `PolicyError` for names in `extra_deny` and `extra_allow` that are unknown or may not be lifted.
    """
    key = (arch.name, options)
    program = _cache.get(key)
    if program is None:
        program = compile_spec(arch, default_spec(options))
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        _cache[key] = program
    return program


def default_spec(options: FilterOptions) -> FilterSpec:
    """Return the rules of a sandbox without a supervisor, most decisive first; raise `PolicyError` as above."""
    if options.extra_deny or options.extra_allow:
        problems = check_names(options.extra_deny, options.extra_allow)
        if problems:
            # Imported here because no good launch needs it.
            from sandlock_policy.errors import PolicyError

            raise PolicyError(problems)
    return FilterSpec(tuple(_rules(options)))


def _rules(options: FilterOptions) -> Iterator[Rule]:
    for name in options.extra_deny:
        yield from _denied(name)
    lifted = set(options.extra_allow)
    for group_name in (*ALWAYS, "metadata") if options.deny_metadata else ALWAYS:
        if group_name not in lifted:
            for rule in _group_rules(group_name):
                if rule.syscall not in lifted:
                    yield rule
    yield from UNIX_ALLOWED if options.unix_sockets else UNIX_REFUSED
    yield from INET_TCP_ONLY if options.tcp else INET_REFUSED
    # With Unix sockets and no TCP every socket that could listen is a Unix one.
    if not options.listen and (options.tcp or not options.unix_sockets):
        yield from LISTEN_REFUSED


def _group_rules(name: str) -> Iterator[Rule]:
    group = GROUPS[name]
    for call, reason in group.calls.items():
        yield Rule(call, (), group.action, reason)
    yield from group.rules


def _denied(name: str) -> Iterator[Rule]:
    """Deny a call, or every call of a group, with any argument (W-45)."""
    if name in GROUPS:
        # Of a call that every program needs, such as ioctl, a group denies some uses only, also here.
        yield from _group_rules(name)
        return
    action = _EPERM
    for group in GROUPS.values():
        if name in group.calls:
            action = group.action
    yield Rule(name, (), action, "denied by the policy")


def check_names(extra_deny: Sequence[str], extra_allow: Sequence[str]) -> tuple[Problem, ...]:
    """Return what is wrong with these names: unknown ones, and groups that would open the sandbox."""
    # Imported here because most policies name no system call.
    from sandlock_policy.seccomp.names import problems_of

    return problems_of(extra_deny, extra_allow)


def describe_filter(options: FilterOptions) -> list[tuple[str, str, str, str]]:
    """Return the filter as rows (system call, condition, action, reason), in the order the rules are tried."""
    # Imported here because only documentation and --explain ask.
    from sandlock_policy.seccomp.describe import rows

    return rows(default_spec(options))
