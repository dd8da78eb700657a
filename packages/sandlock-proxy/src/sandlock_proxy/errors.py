"""What can go wrong with a request, and with the proxy's own material."""

from __future__ import annotations

from sandlock_policy.errors import SandlockError

__all__ = ["CertificateError", "CredentialError", "ProxyError", "Refusal", "UnreachableError"]


class ProxyError(SandlockError):
    """Everything that this package raises to its caller on purpose."""


class CertificateError(ProxyError):
    """A CA, its key or a bundle of certificates is not usable; the message says which and why, never a key.

    Attributes:
        key: where a policy says what is not usable, such as `http.key`.

    """

    def __init__(self, message: str, key: str = "http.ca") -> None:
        super().__init__(message)
        self.key = key


class CredentialError(ProxyError):
    """A credential cannot be read or sent; the message has its name and source, never its value."""


class Refusal(Exception):  # noqa: N818 - it is an answer to the client, not a fault of ours
    """A request is answered by the proxy itself.

    `status` is that of the answer, `reason` its text, `rule` the rule that refused it, if one did. After a fault in
    the framing, `close` says that nothing behind the head can be trusted to be a request.
    """

    def __init__(self, status: int, reason: str, *, rule: str = "", close: bool = False) -> None:
        """Say what to answer."""
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.rule = rule
        self.close = close


class UnreachableError(Refusal):
    """Nobody takes a connection at an address; another one of the same name may do."""
