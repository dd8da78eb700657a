"""The rules of a sandbox without a supervisor, chosen from the groups by what the policy asks."""

from __future__ import annotations

from sandlock_policy.data.network_rules import INET_REFUSED, INET_TCP_ONLY, LISTEN_REFUSED, UNIX_ALLOWED, UNIX_REFUSED
from sandlock_policy.data.syscall_groups import ALWAYS, GROUPS
from sandlock_policy.seccomp.opcodes import RET_ALLOW
from sandlock_policy.seccomp.rules import DENY, FilterSpec, Rule, one_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_policy.seccomp.options import FilterOptions

__all__ = ["default_spec"]

_UNSERVED = ("ioctl", "file_setattr")  # flags of inodes, which nothing but the kernel can change on an fd

# Before the denials where a process is restored. It cannot forge /proc/self/exe: that takes a capability.
_OWN_LAYOUT = Rule(
    "prctl",
    (one_of(0, 35), one_of(1, 14, wide=True)),  # PR_SET_MM, linux/prctl.h, 3.3; PR_SET_MM_MAP, 3.18
    RET_ALLOW,
    "PR_SET_MM_MAP: where heap, stack and arguments are, which a restored process must say",
)


def default_spec(options: FilterOptions) -> FilterSpec:
    """Return the rules for `options`, most decisive first.

    Raises `PolicyError` for names in `extra_deny` and `extra_allow` that are unknown or may not be lifted.
    """
    if options.extra_deny or options.extra_allow:
        # Imported here because most policies name no system call.
        from sandlock_policy.seccomp.names import problems_of

        problems = problems_of(options.extra_deny, options.extra_allow)
        if problems:
            from sandlock_policy.errors import PolicyError

            raise PolicyError(problems)
    return FilterSpec(tuple(_rules(options)))


def _rules(options: FilterOptions) -> Iterator[Rule]:
    for name in options.extra_deny:
        yield from _denied(name)
    if options.own_layout:
        yield _OWN_LAYOUT
    lifted = set(options.extra_allow)
    if options.served_metadata:
        yield from [rule for rule in _group_rules("metadata") if rule.syscall in _UNSERVED]
    asked = {
        "metadata": options.deny_metadata,
        "truncate": options.deny_truncate,
        "input_signals": options.deny_input_signals,
        "given_sockets": options.deny_given_sockets,
    }
    for group_name in [*[name for name, denied in asked.items() if denied], *ALWAYS]:
        if group_name not in lifted:
            yield from [rule for rule in _group_rules(group_name) if rule.syscall not in lifted]
    if options.served_network:
        return
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
    """Deny a call with any argument, or what a group denies (W-45)."""
    if name in GROUPS:
        # Of a call that every program needs, such as ioctl, a group denies some uses only, also here.
        yield from _group_rules(name)
        return
    action = DENY
    for group in GROUPS.values():
        if name in group.calls:
            action = group.action
    yield Rule(name, (), action, "denied by the policy")
