"""struct sockaddr, from bytes that were copied from a child."""

from __future__ import annotations

import socket
from struct import unpack_from

__all__ = ["parse_endpoint"]


def parse_endpoint(address: bytes) -> tuple[str | None, int | None]:
    """Return the numeric host and the port of a struct sockaddr_in or sockaddr_in6; None for both of any other family.

    A scope id is kept as `%N`. Bytes that are too short for their family are no address.
    """
    if len(address) < 2:
        return None, None
    (family,) = unpack_from("=H", address)
    if family == socket.AF_INET and len(address) >= 8:
        return socket.inet_ntop(socket.AF_INET, address[4:8]), unpack_from("!H", address, 2)[0]
    if family == socket.AF_INET6 and len(address) >= 24:
        scope = unpack_from("=I", address, 24)[0] if len(address) >= 28 else 0
        host = socket.inet_ntop(socket.AF_INET6, address[8:24])
        return (f"{host}%{scope}" if scope else host), unpack_from("!H", address, 2)[0]
    return None, None
