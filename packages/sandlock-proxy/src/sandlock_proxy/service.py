"""What all connections of one sandbox share: rules, credentials, limits, how names resolve, who hears of decisions."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property

from sandlock_proxy.certificates import CertificateAuthority
from sandlock_proxy.credentials import Credentials
from sandlock_proxy.events import HttpEvent, Outcome, escape
from sandlock_proxy.limits import Limits
from sandlock_proxy.rules import HttpRules
from sandlock_proxy.upstream import system_context

__all__ = ["Asked", "Service", "resolve_by_system"]

Resolve = Callable[[str], Awaitable[Collection[str]]]
MayConnect = Callable[[str, int], bool]


async def resolve_by_system(name: str) -> tuple[str, ...]:
    """Return the addresses that the system's resolver has for `name` now; none if it has no answer."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


@dataclass(slots=True)
class Asked:
    """What is known of a request so far; a refusal may come before all of it is."""

    method: str = ""
    scheme: str = "http"
    host: str = ""
    port: int = 0
    path: str = ""
    rule: str = ""


@dataclass(frozen=True)
class Service:
    """The part of a proxy that requests need."""

    rules: HttpRules
    credentials: Credentials
    ca: CertificateAuthority | None
    resolve: Resolve
    may_connect: MayConnect | None
    on_event: Callable[[HttpEvent], None] | None
    limits: Limits = field(default_factory=Limits)
    upstream_context: ssl.SSLContext | None = None
    strip_overrides: bool = True

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """How servers are verified; made once, at the first TLS connection, for it reads the whole store."""
        return self.upstream_context or system_context()

    def tell(self, asked: Asked, verdict: Outcome, status: int = 0, reason: str = "") -> None:
        """Report one decision, with secrets masked and everything escaped."""
        if self.on_event is None:
            return
        texts = (asked.method, asked.scheme, asked.host, asked.path, asked.rule, reason)
        method, scheme, host, path, rule, why = (escape(self.credentials.mask(text)) for text in texts)
        self.on_event(HttpEvent(verdict, method, scheme, host, asked.port, path, rule, status, why))
