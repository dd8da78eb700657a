"""The asyncio supervisor of seccomp user notifications, and the handlers of sandlock."""

__all__: list[str] = []
