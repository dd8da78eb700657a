"""What is refused where Landlock is too old to hold it: rules for kernels before 6.12."""

from __future__ import annotations

from sandlock_policy.seccomp.rules import DENY, Group, Rule, errno_action, has_bits, one_of

__all__ = ["OLDER_GROUPS"]

_NO_ACCESS = errno_action(13)  # EACCES, as from Landlock

OLDER_GROUPS: dict[str, Group] = {
    "truncate": Group(
        "Landlock before ABI 3 does not cover truncation (LL-04)",
        {"truncate": "by path, whoever may write it"},
        (
            # O_TRUNC with neither O_WRONLY nor O_RDWR, asm-generic/fcntl.h: mode 3 asks Landlock for nothing.
            Rule("open", (one_of(1, 0o1000, 0o1003, mask=0o1003),), _NO_ACCESS, "O_TRUNC, opened for reading alone"),
            Rule("openat", (one_of(2, 0o1000, 0o1003, mask=0o1003),), _NO_ACCESS, "O_TRUNC, opened for reading alone"),
        ),
        action=_NO_ACCESS,
    ),
    "input_signals": Group(
        "a terminal's input would signal the processes outside that read from it (LL-16)",
        {},
        (
            # asm-generic/fcntl.h, asm-generic/ioctls.h. A pid namespace holds numbers; these need none.
            Rule("fcntl", (one_of(1, 4), has_bits(2, 0o20000)), DENY, "F_SETFL with O_ASYNC"),
            Rule("fcntl", (one_of(1, 10),), DENY, "F_SETSIG: another signal for who has asked for one"),
            Rule("ioctl", (one_of(1, 0x5452),), DENY, "FIOASYNC"),
        ),
    ),
    "given_sockets": Group(
        "Landlock before ABI 4 does not cover TCP ports: a socket that was passed in would reach anyone (NET-06)",
        {},
        (
            # None can be made but Unix pairs, which need neither.
            Rule("connect", (), _NO_ACCESS, "also of a connected one: AF_UNSPEC dissolves that"),
            Rule("bind", (), _NO_ACCESS, "to a port that no rule names"),
        ),
    ),
}
