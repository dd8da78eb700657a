"""Paths as policies write them: their grammar, and what they stand for in one run.

Nothing here touches the file system. Paths are text as Python spells file names (`os.fsdecode`), so any byte but NUL
can be in one.
"""

from __future__ import annotations

import os

from sandlock_policy.errors import RuleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["anchor", "expand_path", "is_below", "is_optional", "normalise", "parse_grant", "parse_path"]


def parse_path(value: object) -> str:
    """Return `value`, a str, bytes or os.PathLike, as text; `~` and `${VAR}` stay as they are written."""
    try:
        text = os.fsdecode(value)  # type: ignore[arg-type]  # it raises TypeError for what is no path
    except TypeError:
        raise RuleError(f"{value!r} is not a path", "write a string such as '/srv/data'") from None
    if not text:
        raise RuleError("the path is empty", "write '.' for the current directory")
    if "\0" in text:
        raise RuleError("the path has a NUL byte", position=text.index("\0"))
    body = text[1:] if is_optional(text) else text
    if body[0] == "~" and body[1:2] not in ("", "/"):
        raise RuleError("only `~` alone or `~/` is expanded, not the home of another user", "write the whole path")
    if "${" in body:
        _check_variables(text)
    return text


def parse_grant(value: object) -> str:
    """Return one path of a list; `-` before `/`, `~` or `$` means that it may be missing."""
    return parse_path(value)


def is_optional(path: str) -> bool:
    """Tell whether `path` is marked with `-` as one that may be missing, as in systemd's `ReadOnlyPaths=-/x`."""
    return path[0] == "-" and path[1:2] in ("/", "~", "$")


def expand_path(path: str, *, cwd: str, home: str, variables: Mapping[str, str]) -> str:
    """Return the absolute, normalised path that `path`, without its `-` mark, stands for.

    `~` is `home`; `${VAR}` comes from `variables`; what is relative then starts at `cwd`. Raises RuleError for a
    variable that is not set.
    """
    if "${" in path:
        path = _substitute(path, variables)
    elif path[0] == "~":
        if not home:
            raise RuleError("`~` stands for the home directory, which is not known", "set HOME or write the whole path")
        path = home + path[1:]
    return normalise(path if path[:1] == "/" else f"{cwd}/{path}")


def normalise(path: str) -> str:
    """Drop empty and `.` components of an absolute path, and keep `..`.

    `a/..` is not `.` where `a` is a symbolic link: only the kernel, which opens the path, can tell.
    """
    if "//" not in path and "/." not in path and (path[-1] != "/" or path == "/"):
        return path
    return "/" + "/".join([part for part in path.split("/") if part not in ("", ".")])


def is_below(path: str, folder: str) -> bool:
    """Tell whether `path` is `folder` or beneath it, by their names alone: absolute, without links, `.` and `..`."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def anchor(path: str, folder: str) -> str:
    """Make a relative path of a profile start at the profile's `folder`; `~`, `${VAR}` and absolute paths stay."""
    if path[0] in "/~" or path.startswith("${") or is_optional(path):
        return path
    return f"{folder.rstrip('/')}/{path}"


def _check_variables(text: str) -> None:
    start = text.find("${")
    while start >= 0:
        end = text.find("}", start)
        name = text[start + 2 : end]
        if end < 0:
            raise RuleError("`${` has no `}`", "write '${NAME}'", position=start)
        if not name.isidentifier() or not name.isascii():
            raise RuleError(f"{name!r} is not the name of a variable", "write '${NAME}'", position=start + 2)
        start = text.find("${", end)


def _substitute(path: str, variables: Mapping[str, str]) -> str:
    pieces = path.split("${")
    result = pieces[0]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}")
        value = variables.get(name)
        if not value:
            raise RuleError(f"the variable {name} is not set", f"set {name}, or write the whole path")
        result += value + rest
    return result
