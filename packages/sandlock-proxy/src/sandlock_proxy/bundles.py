"""Bundles of CA certificates: the proxy's own put into one as it is opened, and written out for other stores."""

from __future__ import annotations

import contextlib
import os
import tempfile

from sandlock_proxy.errors import CertificateError

__all__ = ["splice_certificate", "write_certificate"]

_MARKS = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN TRUSTED CERTIFICATE-----")


def splice_certificate(bundle: bytes, certificate: bytes, name: str = "the bundle") -> bytes:
    """Return `bundle`, the content of a file of PEM certificates, with `certificate` behind the others.

    A bundle that has it already comes back as it is. Raises CertificateError, naming `name`, for what is no PEM: a
    certificate that is appended to another format would be ignored, or break the store.
    """
    if certificate.strip() in bundle:
        return bundle
    if bundle.strip() and not any(mark in bundle for mark in _MARKS):
        reason = f"{name} is no bundle of certificates in PEM; write the CA out with http_ca_out instead"
        raise CertificateError(reason, "http.inject_ca")
    gap = b"" if not bundle or bundle.endswith(b"\n") else b"\n"
    return bundle + gap + certificate


def write_certificate(path: str, certificate: bytes) -> None:
    """Write `certificate` to `path`, whole or not at all, readable by everyone; raises CertificateError."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".sandlock-ca-", dir=os.path.dirname(path) or ".")
        with open(handle, "wb") as file:
            file.write(certificate)
            os.fchmod(handle, 0o644)
        os.replace(temporary, path)
    except OSError as fault:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        reason = f"the CA certificate cannot be written to {path}: {fault.strerror}"
        raise CertificateError(reason, "http.ca_out") from fault
