"""Policies as TOML profiles: reading, writing, merging, and where they are kept."""
