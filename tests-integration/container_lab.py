"""Run a command as in a container of Docker's: behind its seccomp profile, with its capabilities.

    python container_lab.py [--cap-add=SYS_PTRACE] COMMAND...

The rules are in container_rules.py. A filter installed without privilege needs no_new_privs, which Docker does not set;
a sandbox sets it for itself anyway.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from container_rules import CAPABILITIES, SYS_PTRACE, WITH_SYS_PTRACE, profile

import sandlock_arch
from sandlock_policy.seccomp.compile import compile_spec
from sandlock_sys import prctl, seccomp
from sandlock_sys.errors import SyscallError

__all__ = ["enter"]

_HIGHEST_CAPABILITY = 63
_OPTION = "--cap-add=SYS_PTRACE"


def enter(*, traces: bool = False) -> None:
    """Confine this process as dockerd would have it; `traces` is its option --cap-add=SYS_PTRACE."""
    numbers = {*CAPABILITIES.values(), *([SYS_PTRACE] if traces else [])}
    if os.geteuid() == 0:
        for number in range(_HIGHEST_CAPABILITY + 1):
            if number not in numbers:
                try:
                    prctl.drop_bounding(number)
                except SyscallError:
                    break  # beyond the last one that this kernel knows
        kept = sum(1 << number for number in numbers)
        prctl.set_capabilities(kept, kept, 0)
    prctl.set_no_new_privs()
    seccomp.set_mode_filter(compile_spec(sandlock_arch.native(), profile(WITH_SYS_PTRACE if traces else ())))


if __name__ == "__main__":
    more = sys.argv[1] == _OPTION
    enter(traces=more)
    words = sys.argv[2 if more else 1 :]
    os.execvp(words[0], words)  # noqa: S606  # what this is for
