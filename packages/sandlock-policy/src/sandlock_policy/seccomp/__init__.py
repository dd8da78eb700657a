"""seccomp filters: rules in, classic BPF out. Import from the submodules: a launch loads only what it needs."""
