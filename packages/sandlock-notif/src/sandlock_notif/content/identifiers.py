"""What /proc/sys/kernel/random shows as identifiers."""

from __future__ import annotations

__all__ = ["uuid_line"]


def uuid_line(random: bytes) -> bytes:
    """Return a line with a UUID of version 4 (RFC 9562) made of 16 random bytes, as the kernel writes it."""
    if len(random) != 16:
        raise ValueError(f"a UUID is made of 16 bytes, not {len(random)}")
    number = int.from_bytes(random, "big") & ~(0xF000 << 64 | 3 << 62) | 0x4000 << 64 | 2 << 62
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])).encode() + b"\n"
