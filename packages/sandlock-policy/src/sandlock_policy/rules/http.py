"""Rules about HTTP requests: `METHOD HOST[:PORT]/PATH`."""

from __future__ import annotations

from dataclasses import dataclass

from sandlock_policy.errors import RuleError
from sandlock_policy.rules.hosts import parse_address, parse_host
from sandlock_policy.rules.ports import parse_ranges

__all__ = ["TOKEN", "HttpRule", "check_rule", "parse_rule"]

_REMEDY = "write METHOD HOST[:PORT]/PATH, such as 'GET api.example.org/v1/*'"
# RFC 9110, 5.6.2: what methods and header names are made of.
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True, slots=True)
class HttpRule:
    """Requests that a rule names.

    `method` is `*` or exact; `host` is `*`, a name, `*.` and a name, or an address; `port` is None for all that are
    intercepted. `path` is the components, decoded once, `*` for any one of them; `open_end` says that the last one is
    a prefix of whatever follows.
    """

    method: str
    host: str
    port: int | None
    path: tuple[str, ...]
    open_end: bool


def check_rule(value: object) -> str:
    """Return one HTTP rule, with one space between its parts."""
    if not isinstance(value, str):
        raise RuleError(f"{value!r} is not an HTTP rule", _REMEDY)
    parse_rule(value)
    return " ".join(value.split())


def parse_rule(text: str) -> HttpRule:
    """Return the rule that `text` spells; raises RuleError with the position of the fault."""
    method = text.split(" ", 1)[0]
    rest = text[len(method) :].lstrip(" ")
    start = len(text) - len(rest)
    _check_method(method)
    if not rest or " " in rest.rstrip(" "):
        raise RuleError("a rule is a method and one HOST/PATH", _REMEDY, start + max(rest.find(" "), 0))
    rest = rest.rstrip(" ")
    if "://" in rest:
        raise RuleError("a rule has no scheme", f"write {rest.partition('://')[2]}", start)
    slash = rest.find("/")
    if slash < 0:
        raise RuleError("the path is missing", f"write {method} {rest}/* for all paths", start + len(rest))
    host, port = _parse_authority(rest[:slash], start)
    path, open_end = _parse_path(rest[slash:], start + slash)
    return HttpRule(method, host, port, path, open_end)


def _check_method(method: str) -> None:
    if method == "*":
        return
    wrong = next((index for index, char in enumerate(method) if char not in TOKEN or char == "*"), None)
    if not method or wrong is not None:
        raise RuleError(f"{method!r} is not a method", _REMEDY, wrong or 0)
    if method != method.upper():
        raise RuleError(f"methods are compared exactly, and {method!r} is not one", f"write {method.upper()}", 0)


def _parse_authority(text: str, start: int) -> tuple[str, int | None]:
    if "@" in text:
        raise RuleError("a rule has no user name", _REMEDY, start + text.index("@"))
    if text.startswith("["):
        close = text.find("]")
        if close < 0:
            raise RuleError("`[` has no `]`", "write [ADDRESS]:PORT", start)
        host, after = parse_address(text[1:close], start + 1), close + 1
    else:
        after = text.find(":")
        after = len(text) if after < 0 else after
        name = text[:after]
        if name == "*":
            host = name
        elif name and name.strip("0123456789.") == "":
            host = parse_address(name, start)
        else:
            host = parse_host(name, start)
    if after == len(text):
        return host, None
    if text[after] != ":":
        raise RuleError(f"{text[after]!r} cannot follow the host", _REMEDY, start + after)
    ranges = parse_ranges(text[after + 1 :], offset=start + after + 1)
    if len(ranges) != 1 or ranges[0][0] != ranges[0][1]:
        raise RuleError("an HTTP rule has one port", "write a rule for each", start + after + 1)
    return host, ranges[0][0]


def _parse_path(text: str, start: int) -> tuple[tuple[str, ...], bool]:
    for position, char in enumerate(text):
        if char in "?#\\" or not " " < char < "\x7f":
            raise RuleError(f"{char!r} cannot be in the path of a rule", "paths end before `?`", start + position)
    body = text[1:]
    open_end = body.endswith("*")
    if open_end:
        if body.endswith("**"):
            raise RuleError("one `*` ends the path", f"write {text[:-1]}", start + len(text) - 1)
        body = body[:-1]
    components = []
    position = start + 1
    for component in body.split("/"):
        components.append(_parse_component(component, position))
        position += len(component) + 1
    if "" in components[:-1]:
        raise RuleError("the path has an empty component", "write one `/` between components", start)
    return tuple(components), open_end


def _parse_component(text: str, position: int) -> str:
    if text == "*":
        return text
    if "*" in text:
        reason = "`*` is a whole component, or the end of the path"
        raise RuleError(reason, "write such as /v1/*/items or /v1/*", position + text.index("*"))
    decoded = bytearray()
    index = 0
    while index < len(text):
        if text[index] != "%":
            decoded.append(ord(text[index]))
            index += 1
            continue
        digits = text[index + 1 : index + 3]
        try:
            byte = int(digits, 16) if len(digits) == 2 and digits.isalnum() else -1
        except ValueError:
            byte = -1
        if byte < 0 or byte in b"/\\\0%*":
            reason = f"'%{digits}' cannot be in the path of a rule"
            raise RuleError(reason, "requests with it are refused", position + index)
        decoded.append(byte)
        index += 3
    if bytes(decoded) in (b".", b".."):
        raise RuleError(f"{text!r} is not a component of a normal path", "write the path it leads to", position)
    return decoded.decode("utf-8", "surrogateescape")
