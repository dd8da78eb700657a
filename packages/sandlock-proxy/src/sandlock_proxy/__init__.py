"""HTTP access control for sandboxes: rules, certificates, credentials."""

from __future__ import annotations

from sandlock_proxy.bundles import splice_certificate, write_certificate
from sandlock_proxy.certificates import CertificateAuthority
from sandlock_proxy.credentials import Credentials
from sandlock_proxy.errors import CertificateError, CredentialError, ProxyError
from sandlock_proxy.events import HttpEvent
from sandlock_proxy.limits import Limits
from sandlock_proxy.proxy import Listening, Proxy
from sandlock_proxy.rules import HttpRules
from sandlock_proxy.secret import Secret

__all__ = [
    "CertificateAuthority",
    "CertificateError",
    "CredentialError",
    "Credentials",
    "HttpEvent",
    "HttpRules",
    "Limits",
    "Listening",
    "Proxy",
    "ProxyError",
    "Secret",
    "splice_certificate",
    "write_certificate",
]
