"""A certificate authority for one proxy, and the leaf certificates it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.hosts import parse_host
from sandlock_proxy.errors import CertificateError

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["CertificateAuthority", "ServingContext"]

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_LEAVES: Final = 256
_BACKDATED = dt.timedelta(hours=1)  # clocks differ a little
_LEAF_LIFE = dt.timedelta(days=7)
_CA_LIFE = dt.timedelta(days=3650)  # it is gone with the sandbox; this only must not be sooner


class ServingContext(ssl.SSLContext):
    """Serves TLS as one name."""

    served_name: str


class CertificateAuthority:
    """Signs a certificate for each name that a client asks for; the key is never written anywhere.

    Leaves share one key, made for this object, and are kept for the 256 names that were asked for last.
    """

    def __init__(self, certificate: x509.Certificate, key: SigningKey) -> None:
        """Use `certificate` and its `key`; `ephemeral` and `load` are how to get there."""
        self._certificate = certificate
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[str, tuple[dt.datetime, ServingContext]] = OrderedDict()

    @classmethod
    def ephemeral(cls) -> CertificateAuthority:
        """Make a CA that lives as long as this object."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sandlock ephemeral CA {os.urandom(4).hex()}")])
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> CertificateAuthority:
        """Use a CA of the user's, both in PEM; raises CertificateError for what cannot sign."""
        try:
            loaded = x509.load_pem_x509_certificate(certificate)
        except ValueError:
            raise CertificateError("the CA is no certificate in PEM") from None
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except TypeError:
            raise CertificateError("the key of the CA is encrypted; give one without a password", "http.key") from None
        except (ValueError, UnsupportedAlgorithm):
            raise CertificateError("the key of the CA is no private key in PEM", "http.key") from None
        if not isinstance(private, SigningKey):
            raise CertificateError("the key of the CA is of a kind that cannot sign certificates here", "http.key")
        plain = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if private.public_key().public_bytes(*plain) != loaded.public_key().public_bytes(*plain):
            raise CertificateError("the key is not that of the CA certificate", "http.key")
        try:
            is_ca = loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_ca = False
        if not is_ca:
            raise CertificateError("the CA certificate is not one of a CA (basicConstraints)")
        if loaded.not_valid_after_utc <= dt.datetime.now(dt.UTC):
            raise CertificateError(f"the CA certificate has expired on {loaded.not_valid_after_utc:%Y-%m-%d}")
        return cls(loaded, private)

    @classmethod
    def from_policy(cls, policy: Policy) -> CertificateAuthority | None:
        """Return the CA that `policy` names, an ephemeral one if it wants its certificate somewhere, or None."""
        if policy.http_ca and policy.http_key:
            return cls.load(_read(policy.http_ca, "CA", "http.ca"), _read(policy.http_key, "key of the CA", "http.key"))
        if policy.http_inject_ca or policy.http_ca_out:
            return cls.ephemeral()
        return None

    @property
    def pem(self) -> bytes:
        """The CA's certificate, for the program's trust stores."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, name: str) -> ServingContext:
        """Return what to serve TLS with as `name`, a host name or an address in canonical form.

        A client that asks for another name in its greeting is served as that one.
        """
        now = dt.datetime.now(dt.UTC)
        renew, found = self._contexts.pop(name, (now, None))
        if found is None or renew <= now:
            leaf = self._sign(name, now)
            renew, found = now + (leaf.not_valid_after_utc - now) / 2, self._make_context(name, leaf)
        self._contexts[name] = (renew, found)  # put back last: the dictionary is in the order of use
        if len(self._contexts) > _LEAVES:
            self._contexts.popitem(last=False)
        return found

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        """Turn `connection` to the name that the client asks for; an alert where that is none."""
        if name is None:
            return None
        try:
            connection.context = self.context(parse_host(name, wildcard=False))
        except RuleError:
            return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
        return None

    def _sign(self, name: str, now: dt.datetime) -> x509.Certificate:
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        builder = (
            x509.CertificateBuilder()
            # A common name has at most 64 characters; clients look at the alternative name alone.
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - _BACKDATED, self._certificate.not_valid_before_utc))
            .not_valid_after(min(now + _LEAF_LIFE, self._certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(self._authority_key(), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_key.public_key()), critical=False)
        )
        plain = isinstance(self._key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        return builder.sign(self._key, None if plain else hashes.SHA256())

    def _authority_key(self) -> x509.AuthorityKeyIdentifier:
        try:
            known = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)

    def _make_context(self, name: str, leaf: x509.Certificate) -> ServingContext:
        context = ServingContext(ssl.PROTOCOL_TLS_SERVER)
        context.served_name = name
        context.sni_callback = self._choose
        context.options |= ssl.OP_NO_TICKET  # a resumed session would have been made for another name
        context.num_tickets = 0
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        key = self._leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # The ssl module takes files only, and the key belongs on no disk: a memfd has a name for as long as it is open.
        handle = os.memfd_create("leaf", os.MFD_CLOEXEC)
        with open(handle, "wb") as file:
            file.write(key + leaf.public_bytes(serialization.Encoding.PEM) + self.pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{handle}")
        return context


def _read(path: str, what: str, key: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as fault:
        raise CertificateError(f"the {what}, {path}, cannot be read: {fault.strerror}", key) from fault


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
