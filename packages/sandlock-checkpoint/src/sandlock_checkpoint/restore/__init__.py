"""Restoring: a fresh stopped child becomes the process that was captured."""

__all__: list[str] = []
