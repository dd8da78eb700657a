"""A copy-on-write branch over a directory: changes, commit, discard, quota."""

__all__: list[str] = []
