"""From a head to a request that all its parts agree on, and that the rules allow (NET-14, NET-15)."""

from __future__ import annotations

import asyncio
import base64
import hmac
from dataclasses import dataclass

from sandlock_policy.matching import canonical_address
from sandlock_proxy.authority import Authority, parse_authority, split_absolute
from sandlock_proxy.errors import Refusal
from sandlock_proxy.heads import Head
from sandlock_proxy.service import Asked, Service
from sandlock_proxy.target import Target, parse_target

__all__ = ["Admission", "Origin", "Request"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from and was going to.

    `destination` is the address and port that the program connected to; None in listening mode, where `secret` is what
    a request has to show instead. `tls_name` is the name that the client greeted in TLS, None without TLS.
    """

    destination: tuple[str, int] | None
    tls_name: str | None = None
    secret: str | None = None

    @property
    def scheme(self) -> str:
        """What the client speaks."""
        return "http" if self.tls_name is None else "https"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that may go out, to `address`."""

    head: Head
    authority: Authority
    target: Target
    address: str


class Admission:
    """Judges the requests of one connection."""

    def __init__(self, service: Service, origin: Origin) -> None:
        """Judge by the rules of `service`."""
        self._service = service
        self._origin = origin
        self._led_here: set[str] = set()  # hosts that were seen to lead to the destination

    async def admit(self, head: Head, asked: Asked) -> Request:
        """Return the request of `head`, filling in `asked` on the way; raises Refusal."""
        asked.method, asked.scheme = head.method, self._origin.scheme
        if self._origin.secret is not None:
            _authenticate(head, self._origin.secret)
        authority, path = self._agree(head)
        asked.host, asked.port, asked.path = authority.host, authority.port, path.decode("ascii").partition("?")[0]
        if self._origin.tls_name is not None and authority.host != self._origin.tls_name:
            raise Refusal(403, f"the host is not {self._origin.tls_name}, which TLS was made with", close=True)
        target = parse_target(path)
        asked.path = target.path
        verdict = self._service.rules.verdict(head.method, authority, target)
        asked.rule = verdict.rule
        if not verdict.allowed:
            why = "by a rule" if verdict.rule else "because no rule of http.allow covers it"
            where = authority.header(self._origin.scheme)
            raise Refusal(403, f"{head.method} {where}{target.path} is refused {why}", rule=verdict.rule or "none")
        address = await self._destination(authority)
        return Request(head, authority, target, address)

    def _agree(self, head: Head) -> tuple[Authority, bytes]:
        """Return the host that every part of the head names, and the target in origin form."""
        scheme = self._origin.scheme
        authority = parse_authority((head.first(b"host") or b"").decode("latin-1"), scheme)
        target = head.target
        if not target.startswith(b"/"):
            named, text, target = split_absolute(target)
            if named != scheme:
                raise Refusal(400, f"the target says {named} on a connection that is {scheme}", close=True)
            if parse_authority(text, scheme) != authority:
                raise Refusal(400, "the target and the Host header name different hosts", close=True)
        elif self._origin.destination is None:
            raise Refusal(400, "a request to a proxy has the whole address as its target", close=True)
        if self._origin.destination is not None and authority.port != self._origin.destination[1]:
            raise Refusal(403, f"the host names port {authority.port}, the connection is to another one", close=True)
        if scheme == "http" and authority.port == 443:
            raise Refusal(403, "port 443 without TLS", close=True)
        return authority, target

    async def others(self, authority: Authority, address: str) -> tuple[str, ...]:
        """Return where else a request for `authority` may go when nobody answers at `address`.

        The program's connection seemed to be made, so it does not try the next address of the name itself.
        """
        found = await self._addresses(authority)
        return tuple(one for one in found if one != address and self._may_connect(one, authority.port))

    async def _destination(self, authority: Authority) -> str:
        """Return the address to connect to: the one the program connected to, if the host leads there."""
        if self._origin.destination is None:
            address = await self._choose(authority)
        else:
            address = self._origin.destination[0]
            if authority.host not in self._led_here:
                wanted = canonical_address(address)
                if wanted not in {canonical_address(one) for one in await self._addresses(authority)}:
                    raise Refusal(403, f"{authority.host} does not lead to {address}, where the connection is to")
                self._led_here.add(authority.host)
            if not self._may_connect(address, authority.port):
                raise Refusal(403, f"the network rules do not allow {address} port {authority.port}")
        return address

    async def _choose(self, authority: Authority) -> str:
        addresses = await self._addresses(authority)
        if not addresses:
            raise Refusal(502, f"{authority.host} does not resolve")
        allowed = [address for address in addresses if self._may_connect(address, authority.port)]
        if not allowed:
            raise Refusal(403, f"the network rules do not allow {authority.host} port {authority.port}")
        return allowed[0]

    async def _addresses(self, authority: Authority) -> tuple[str, ...]:
        if authority.is_address:
            return (authority.host,)
        wait = self._service.limits.connect_s
        try:
            async with asyncio.timeout(wait):
                return tuple(await self._service.resolve(authority.host))
        except TimeoutError:
            raise Refusal(504, f"{authority.host} did not resolve within {wait:g} s") from None

    def _may_connect(self, address: str, port: int) -> bool:
        return self._service.may_connect is None or self._service.may_connect(address, port)


def _authenticate(head: Head, secret: str) -> None:
    given = head.first(b"proxy-authorization") or b""
    wanted = b"Basic " + base64.b64encode(f"sandlock:{secret}".encode("ascii"))
    if not hmac.compare_digest(given, wanted):
        raise Refusal(407, "this proxy serves one sandbox only", close=True)
