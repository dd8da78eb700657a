"""The connection to the server that a request is for."""

from __future__ import annotations

import asyncio
import ssl

from sandlock_proxy.errors import Refusal, UnreachableError
from sandlock_proxy.limits import Limits
from sandlock_proxy.stream import Stream

__all__ = ["Upstream", "system_context"]


class Upstream:
    """One connection to one address, kept while answers leave it in order."""

    def __init__(self, stream: Stream, key: tuple[str, int, str]) -> None:
        """Wrap `stream`; `key` is (address, port, TLS name) of what it is connected to."""
        self.stream = stream
        self.key = key
        self.used = False

    @classmethod
    async def connect(cls, key: tuple[str, int, str], limits: Limits, context: ssl.SSLContext | None) -> Upstream:
        """Connect, with TLS if there is a `context`; raises Refusal(502) or (504) that says what failed."""
        address, port, name = key
        loop = asyncio.get_running_loop()
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            async with asyncio.timeout(limits.connect_s):
                _, stream = await loop.create_connection(
                    lambda: Stream(limits), address, port, ssl=context, server_hostname=name if context else None
                )
        except TimeoutError:
            raise Refusal(504, f"{where} did not answer within {limits.connect_s:g} s") from None
        except ssl.SSLCertVerificationError as fault:
            raise Refusal(502, f"the certificate of {name} at {where} is not valid: {fault.verify_message}") from None
        except ssl.SSLError as fault:
            raise Refusal(502, f"TLS with {name} at {where} failed: {fault.reason}") from None
        except OSError as fault:
            raise UnreachableError(502, f"{where} cannot be reached: {fault.strerror or fault}") from None
        return cls(stream, key)

    def serves(self, key: tuple[str, int, str]) -> bool:
        """Tell whether a request for `key` can go out here: nothing has come that nobody asked for, not even an end."""
        return self.key == key and not self.stream.ended and not self.stream.buffered

    def close(self) -> None:
        """Close at once; what is still under way is of no use to anyone."""
        self.stream.abort()


def system_context() -> ssl.SSLContext:
    """Return how servers are verified: by the system's store, or the one that SSL_CERT_FILE names."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
