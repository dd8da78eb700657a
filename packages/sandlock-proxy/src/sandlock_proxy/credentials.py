"""Credentials that the proxy attaches to requests after the rules have passed (NET-21)."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

from sandlock_policy.rules.credentials import AuthRule, parse_auth
from sandlock_proxy.authority import Authority
from sandlock_proxy.errors import CredentialError
from sandlock_proxy.rules import matches
from sandlock_proxy.secret import Secret, read_secret
from sandlock_proxy.target import Target

if TYPE_CHECKING:
    from sandlock_policy.model import Policy

__all__ = ["Attached", "Credentials"]

# Set by the proxy itself; a credential in one of them would change what the request is.
_FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer"}
)


@dataclass(frozen=True, slots=True, repr=False)
class Attached:
    """What a request becomes: headers to drop (lower case) and to add, its query, and the secrets in them."""

    drop: frozenset[bytes] = frozenset()
    add: tuple[tuple[bytes, bytes], ...] = ()
    query: str | None = None
    secrets: tuple[Secret, ...] = ()

    def __repr__(self) -> str:
        return f"Attached({', '.join(secret.name for secret in self.secrets)})"


class Credentials:
    """Secrets by name, and the rules that say which requests get them."""

    def __init__(self, secrets: Mapping[str, Secret] | None = None, rules: Iterable[str] = ()) -> None:
        """Take `secrets` and rules as `METHOD HOST/PATH SHAPE NAME [replace|add-only]`.

        Raises RuleError for what is no rule, CredentialError for a rule whose secret or header is not usable.
        """
        self._secrets = dict(secrets or {})
        self._rules = [parse_auth(text) for text in rules]
        for rule in self._rules:
            if rule.credential not in self._secrets:
                raise CredentialError(f"there is no credential {rule.credential!r}")
            if rule.shape == "header" and rule.argument.lower() in _FRAMING:
                raise CredentialError(f"the header {rule.argument} belongs to the proxy, a credential cannot be there")

    @classmethod
    def from_policy(cls, policy: Policy, environment: Mapping[str, str] | None = None) -> Credentials:
        """Read every secret of `policy` now; `environment` is that of this process if not given."""
        places = os.environ if environment is None else environment
        secrets = {name: read_secret(name, source, places) for name, source in policy.credentials.items()}
        return cls(secrets, policy.http_auth)

    def attach(self, method: str, authority: Authority, target: Target, names: Iterable[bytes]) -> Attached | None:
        """Return what to change about a request that the rules allowed; None where no rule is about it.

        `names` are the lower-case names of its headers. Of several rules for one place, the first counts.
        """
        rules = [rule for rule in self._rules if _covers(rule, method, authority, target)]
        if not rules:
            return None
        present = frozenset(names)
        taken: set[tuple[str, str]] = set()
        drop: set[bytes] = set()
        add: list[tuple[bytes, bytes]] = []
        used: list[Secret] = []
        query = target.query
        for rule in rules:
            secret = self._secrets[rule.credential]
            place = ("query", rule.argument) if rule.shape == "query" else ("header", _header_of(rule).lower())
            if place in taken:
                continue
            taken.add(place)
            if rule.shape == "query":
                changed = _with_parameter(query, rule, secret)
                if changed is None:
                    continue
                query = changed
            else:
                header = place[1].encode("ascii")
                if rule.mode == "add-only" and header in present:
                    continue
                # A server that hands headers on as variables does not tell `_` from `-`.
                drop |= {name for name in present if name.replace(b"_", b"-") == header.replace(b"_", b"-")}
                add.append((_header_of(rule).encode("ascii"), _value(rule, secret).encode("ascii")))
            used.append(secret)
        if not used:
            return None
        return Attached(frozenset(drop), tuple(add), query, tuple(used))

    def mask(self, text: str) -> str:
        """Return `text` with every secret in it written as `***`."""
        return mask_text(text, self._secrets.values())

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self._secrets)})"


def mask_text(text: str, secrets: Iterable[Secret]) -> str:
    """Return `text` with every spelling of `secrets` in it written as `***`."""
    for secret in secrets:
        for spelling in secret.spellings():
            text = text.replace(spelling.decode("ascii"), "***")
    return text


def _covers(rule: AuthRule, method: str, authority: Authority, target: Target) -> bool:
    return matches(rule.rule, method, authority, target.components) and (
        target.plain == target.components or matches(rule.rule, method, authority, target.plain)
    )


def _header_of(rule: AuthRule) -> str:
    return rule.argument if rule.shape == "header" else "Authorization"


def _value(rule: AuthRule, secret: Secret) -> str:
    if rule.shape == "bearer":
        return f"Bearer {secret.reveal()}"
    if rule.shape == "basic":
        pair = f"{rule.argument}:{secret.reveal()}"
        return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
    return secret.reveal()


def _with_parameter(query: str | None, rule: AuthRule, secret: Secret) -> str | None:
    """Return the query with the secret in it; None if it has the parameter and the rule only adds."""
    parts = [] if query is None else query.split("&")
    # `;` separates parameters for some servers: one that hides behind it is found as well.
    kept = [part for part in parts if not _names(part, rule.argument)]
    if rule.mode == "add-only" and len(kept) != len(parts):
        return None
    kept = [part for part in kept if part]
    return "&".join([*kept, f"{quote(rule.argument, safe='')}={quote(secret.reveal(), safe='')}"])


def _names(part: str, parameter: str) -> bool:
    pieces: Sequence[str] = part.split(";")
    return any(unquote_plus(piece.partition("=")[0]) == parameter for piece in pieces)
