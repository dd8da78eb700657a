"""Capture, save, load and restore a running process, without privileges."""

__all__: list[str] = []
