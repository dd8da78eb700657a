"""How much and how long the proxy lets one sandbox have; one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one proxy (NET-22). Sizes are bytes, names that end in `_s` are seconds."""

    connections: int = 512
    head_bytes: int = 64 * 1024
    headers: int = 200
    target_bytes: int = 16 * 1024
    head_s: float = 15.0  # from the first byte of a head to its last: a slow one is ended, however steady
    idle_s: float = 90.0  # between two requests
    stall_s: float = 300.0  # without a byte moving, either way, while a body is under way
    connect_s: float = 15.0  # TCP and TLS to the server
    handshake_s: float = 15.0  # TLS with the client
    response_s: float = 600.0  # until the server's first word
    buffer_bytes: int = 256 * 1024  # what is held of a connection before its sender has to wait
    linger_s: float = 1.0  # how long a refused body is read and dropped, so that the answer arrives
