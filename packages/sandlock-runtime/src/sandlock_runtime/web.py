"""The HTTP proxy of one sandbox: its rules, credentials and CA, in a loop of the host's that no handler waits for."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from sandlock_notif.events import Sink, ignore
from sandlock_notif.resolver import LAUNCH_TTL_S, REFRESH_S
from sandlock_policy.errors import PolicyError, Problem
from sandlock_policy.matching import NetworkRules
from sandlock_proxy import (
    CertificateAuthority,
    CertificateError,
    CredentialError,
    Credentials,
    HttpRules,
    Proxy,
    splice_certificate,
    write_certificate,
)
from sandlock_runtime.loop import proxy_loop
from sandlock_runtime.web_events import event_of
from sandlock_sys.constants.openat2 import Resolve
from sandlock_sys.openat2 import AT_FDCWD, openat2

if TYPE_CHECKING:
    from sandlock_policy import Policy

__all__ = ["Web"]

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # a pipe or a terminal in its place must not hold up the launch


class Web:
    """A proxy, from the launch to the end of its sandbox.

    Arguments:
        policy: with rules about HTTP.
        environment: the caller's, where credentials may come from.
        names: the addresses of the policy's host names, as the program is told them.

    Attributes:
        sink: told of each decision, in the proxy's loop; if it raises, the request is not served.

    Raises:
        PolicyError: a CA, a key or a credential cannot be used, or the CA's certificate not be written.

    """

    def __init__(
        self,
        policy: Policy,
        environment: Mapping[str, str],
        names: Mapping[str, Sequence[str]],
    ) -> None:
        self.sink: Sink = ignore
        try:
            credentials = Credentials.from_policy(policy, environment)
        except CredentialError as error:
            raise PolicyError([Problem("http.credentials", "", str(error), "name a secret that is there")]) from error
        try:
            self.ca = CertificateAuthority.from_policy(policy)
            if self.ca is not None and policy.http_ca_out is not None:
                write_certificate(policy.http_ca_out, self.ca.pem)
        except CertificateError as error:
            raise PolicyError([Problem(error.key, "", str(error), "name another file")]) from error
        self._names = {name: tuple(addresses) for name, addresses in names.items()}
        # With net_refresh the addresses of a name count for a time, as those that the program connects to do.
        lasting = LAUNCH_TTL_S if policy.net_refresh else None
        self._rules = NetworkRules.from_policy(policy, self._names, names_last_s=lasting)
        self._ends = dict.fromkeys(self._names, monotonic() + REFRESH_S if policy.net_refresh else inf)
        self._thread = proxy_loop()
        self._proxy = Proxy(
            HttpRules.from_policy(policy),
            credentials=credentials,
            ca=self.ca,
            resolve=self._resolve,
            may_connect=lambda address, port: self._rules.verdict("tcp", address, port).allowed,
            on_event=lambda told: self.sink(event_of(told)),
        )
        self._thread.call(self._proxy.start())

    def intercept(self, connection: socket.socket, destination: tuple[str, int]) -> None:
        """Serve the other end of a connection that was to go to `destination`; from any thread."""
        self._thread.loop.call_soon_threadsafe(self._adopt, connection, destination)

    def bundle(self, path: str, root: str | None = None) -> bytes:
        """Return the bundle at `path` with the CA's certificate behind the others.

        Arguments:
            path: absolute, as the program names it.
            root: the folder on the host that is the program's root, or None. Links lead nowhere else.

        Raises:
            PolicyError: it cannot be read, or is none.

        """
        try:
            content = _read(path, root)
            assert self.ca is not None  # noqa: S101  # a policy that injects has one
            return splice_certificate(content, self.ca.pem, path)
        except (OSError, CertificateError) as error:
            reason = f"{path} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            problem = Problem("http.inject_ca", path, reason, "name a bundle of certificates in PEM")
            raise PolicyError([problem]) from error

    def close(self) -> None:
        """End every connection; twice is fine."""
        if self._thread.alive:
            self._thread.call(self._proxy.close())

    def _adopt(self, connection: socket.socket, destination: tuple[str, int]) -> None:
        try:
            self._proxy.adopt(connection, destination)
        except Exception:  # noqa: BLE001  # a connection that nobody serves must not stay open, whatever went wrong
            connection.close()

    async def _resolve(self, name: str) -> tuple[str, ...]:
        known = self._names.get(name)
        if known is not None and monotonic() < self._ends[name]:
            return known
        loop = asyncio.get_running_loop()
        with suppress(socket.gaierror):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            told = tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
            if known is None:
                return told
            self._names[name] = self._rules.learn(name, told, LAUNCH_TTL_S)
            self._ends[name] = monotonic() + REFRESH_S
            return self._names[name]
        return ()


def _read(path: str, root: str | None) -> bytes:
    """What the program would read at `path`: who may write there must not choose a file of the host's to be shown."""
    if root is None:
        fd = openat2(AT_FDCWD, os.fsencode(path), _READ | os.O_NOFOLLOW, Resolve.NO_MAGICLINKS)
    else:
        folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = openat2(folder, os.fsencode(path), _READ, Resolve.IN_ROOT | Resolve.NO_MAGICLINKS)
        finally:
            os.close(folder)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("is no regular file")
        return file.read()
