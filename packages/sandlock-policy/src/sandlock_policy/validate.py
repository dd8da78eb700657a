"""Turning what was given for each field into its canonical value, with every fault collected."""

from __future__ import annotations

import sys

from sandlock_policy.errors import PolicyError, Problem, RuleError
from sandlock_policy.fields import FIELD_BY_NAME, KINDS
from sandlock_policy.paths import parse_grant
from sandlock_policy.record import FrozenDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sandlock_policy.fields import Field

__all__ = ["check_fields", "closest"]

# The fields that can contradict another one; only a policy that sets one of them loads the checks.
_RELATED = frozenset(
    (
        "allow_degraded", "chroot", "credentials", "disable", "extra_allow_syscalls", "extra_deny_syscalls",
        "fs_denied", "fs_mount", "fs_mount_ro", "fs_storage", "gid", "http_auth", "http_ca", "http_ca_out", "http_key",
        "image", "max_disk", "net_refresh", "on_error", "on_exit", "uid",
    )
)  # fmt: skip

_parsers: dict[str, Callable[[Any], Any]] = {"paths": parse_grant}
_secretive: set[Callable[[Any], Any]] = set()  # parsers of values that may hold a secret


def check_fields(given: Mapping[str, object]) -> dict[str, Any]:
    """Return the canonical values of the fields in `given` that are set; raise PolicyError with every fault."""
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = FIELD_BY_NAME.get(name)
        if field is None:
            problems.append(_unknown(name))
        elif value is not None:
            values[name] = _check_value(field, value, problems)
    placed = "env" in values and any(value and value[0] == "$" for value in values["env"].values())
    if placed or not _RELATED.isdisjoint(values):
        from sandlock_policy.contradictions import find_contradictions  # lazy: few policies can contradict themselves

        problems += find_contradictions(values)
    if problems:
        raise PolicyError(problems)
    return values


def closest(word: str, known: list[str]) -> str:
    """Return `did you mean ...?` for the word of `known` that is most like `word`, or an empty string."""
    from difflib import get_close_matches  # lazy: only a mistake pays for it

    found = get_close_matches(word, known, n=1)
    return f"did you mean {found[0]!r}?" if found else ""


def _unknown(name: str) -> Problem:
    return Problem(name, "", "there is no such field", closest(name, list(FIELD_BY_NAME)))


def _check_value(field: Field, value: object, problems: list[Problem]) -> Any:
    """Return the canonical form of `value`; where it has a fault, add it to `problems` and return the default."""
    if field.kind == "bool" and (value is True or value is False):
        return value
    parse = _parser(field.kind)
    if field.shape == "one":
        return _parse_one(parse, value, field.path, problems, field.default)
    if field.shape == "mapping":
        return _check_mapping(field, parse, value, problems)
    items = _items(field, value, problems)
    parsed = [_parse_one(parse, item, f"{field.path}[{index}]", problems, None) for index, item in enumerate(items)]
    return tuple(dict.fromkeys(parsed))


def _check_mapping(field: Field, parse: Callable[[Any], Any], value: object, problems: list[Problem]) -> Any:
    result: dict[str, Any] = {}
    named: list[tuple[str, object]]
    if isinstance(value, dict):
        named = [(f"{field.path}.{pair[0]}", pair) for pair in value.items()]
    else:
        named = [(f"{field.path}[{index}]", item) for index, item in enumerate(_items(field, value, problems))]
    for path, item in named:
        pair = _parse_one(parse, item, path, problems, None)
        if pair is None:
            continue
        key, canonical = pair
        if key in result and result[key] != canonical:
            problems.append(Problem(path, key, f"{key!r} is given twice, with different values", "keep one"))
        result[key] = canonical
    return FrozenDict(result)


def _items(field: Field, value: object, problems: list[Problem]) -> list[object]:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, str | bytes | int | float) or not hasattr(value, "__iter__"):
        problems.append(Problem(field.path, repr(value), f"{value!r} is not a list", f"write [{value!r}]"))
        return []
    return list(value)


def _parse_one(
    parse: Callable[[Any], Any], value: object, path: str, problems: list[Problem], otherwise: object
) -> Any:
    try:
        return parse(value)
    except RuleError as fault:
        text = _shown(value, secret=parse in _secretive)
        problems.append(Problem(path, text, str(fault), fault.remedy, fault.position))
        return otherwise


def _shown(value: object, *, secret: bool) -> str:
    """Return the text of `value` for an error; of one that may be a secret, the name before `=` only."""
    if secret:
        name = value[0] if isinstance(value, tuple) and value else value
        return name.partition("=")[0] if isinstance(name, str) else ""
    return value if isinstance(value, str) else repr(value)


def _parser(kind: str) -> Callable[[Any], Any]:
    parse = _parsers.get(kind)
    if parse is None:
        module, _, function = KINDS[kind][1].partition(":")
        name = f"sandlock_policy.{module}"
        __import__(name)  # lazy: a launch loads the grammars of the fields it sets, and no others
        parse = _parsers[kind] = getattr(sys.modules[name], function)
        if kind in ("env", "credentials"):
            _secretive.add(parse)
    return parse
