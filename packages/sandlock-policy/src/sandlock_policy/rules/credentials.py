"""Credentials: where the secret is (`env:V`, `file:P`, `fd:N`), and which requests the proxy attaches it to."""

from __future__ import annotations

from dataclasses import dataclass

from sandlock_policy.errors import RuleError
from sandlock_policy.paths import parse_path
from sandlock_policy.rules.http import TOKEN, HttpRule, parse_rule
from sandlock_policy.rules.scalars import parse_integer, parse_name

__all__ = ["AuthRule", "check_auth", "parse_auth", "parse_credential"]

_SOURCE = "write NAME=env:VARIABLE, NAME=file:PATH or NAME=fd:NUMBER"
_AUTH = "write 'METHOD HOST/PATH SHAPE NAME [replace|add-only]', such as 'GET api.example.org/* bearer TOKEN'"
_SHAPES = ("bearer", "basic:USER", "header:NAME", "query:PARAM")
_MODES = ("replace", "add-only")


@dataclass(frozen=True, slots=True)
class AuthRule:
    """Attach `credential` to the requests of `rule`, in the form `shape` with its `argument`.

    `mode` is `replace` (what the program sent there is dropped) or `add-only` (a request that has it already passes
    unchanged).
    """

    rule: HttpRule
    shape: str
    argument: str
    credential: str
    mode: str = "replace"


def parse_credential(item: object) -> tuple[str, str]:
    """Return (name, source) of `NAME=SOURCE` or of a pair; the secret itself is read at launch, never here."""
    if isinstance(item, str):
        name, _, source = item.partition("=")
    elif isinstance(item, tuple) and len(item) == 2:
        name, source = item
    else:
        raise RuleError("this is not a credential", _SOURCE)
    name = parse_name(name)
    kind, _, place = source.partition(":") if isinstance(source, str) else ("", "", "")
    # What stands where the source should be may be the secret itself, so it stays out of the message.
    if kind == "env":
        if not place or "=" in place or "\0" in place:
            raise RuleError(f"the source of {name} does not name a variable", _SOURCE)
    elif kind == "file":
        place = parse_path(place)
    elif kind == "fd":
        place = str(parse_integer(place, "a file descriptor", 0, 2**20))
    else:
        raise RuleError(f"the source of {name} is neither env:, file: nor fd:", _SOURCE)
    return name, f"{kind}:{place}"


def check_auth(value: object) -> str:
    """Return one rule that attaches a credential, with one space between its parts."""
    if not isinstance(value, str):
        raise RuleError(f"{value!r} is not a rule", _AUTH)
    parse_auth(value)
    return " ".join(value.split())


def parse_auth(text: str) -> AuthRule:
    """Return the rule that `text` spells."""
    parts = text.split()
    if len(parts) not in (4, 5):
        raise RuleError(f"the rule has {len(parts)} parts, not 4 or 5", _AUTH)
    mode = parts[4] if len(parts) == 5 else "replace"
    if mode not in _MODES:
        raise RuleError(f"{mode!r} is none of {', '.join(_MODES)}", _AUTH, text.rindex(mode))
    shape, colon, argument = parts[2].partition(":")
    _check_shape(shape, colon, argument, text.index(parts[2], len(parts[0]) + len(parts[1])))
    return AuthRule(parse_rule(f"{parts[0]} {parts[1]}"), shape, argument, parse_name(parts[3]), mode)


def _check_shape(shape: str, colon: str, argument: str, position: int) -> None:
    if shape == "bearer" and not colon:
        return
    if shape == "basic" and argument and ":" not in argument:
        return
    if shape in ("header", "query") and argument and all(char in TOKEN for char in argument):
        return
    raise RuleError(f"{shape + colon + argument!r} is none of {', '.join(_SHAPES)}", _AUTH, position)
