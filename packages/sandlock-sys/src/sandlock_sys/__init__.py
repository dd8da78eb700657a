"""Raw Linux kernel calls for sandboxing: Landlock, seccomp, ptrace, pidfd, spawn.

Each call family is a module of its own, imported by name: `from sandlock_sys import landlock`.
"""

from sandlock_sys.errors import ProcParseError, SyscallError

__all__ = ["ProcParseError", "SyscallError"]
