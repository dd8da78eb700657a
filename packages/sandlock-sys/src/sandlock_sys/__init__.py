"""Raw Linux kernel calls for sandboxing: Landlock, seccomp, ptrace, pidfd, spawn."""
