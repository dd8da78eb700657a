"""Capturing: stop every thread, write down what it is, read its memory, let it run on."""

__all__: list[str] = []
