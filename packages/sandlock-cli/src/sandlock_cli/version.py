"""`sandlock version`: the versions of the packages, of Python and of the kernel, as a fault report needs them."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.verbs import options_of
from sandlock_sys import landlock

__all__ = ["main", "versions"]

_PACKAGES = (
    "sandlock",
    "sandlock-cli",
    "sandlock-runtime",
    "sandlock-notif",
    "sandlock-checkpoint",
    "sandlock-proxy",
    "sandlock-policy",
    "sandlock-cow",
    "sandlock-arch",
    "sandlock-sys",
)


def main(words: list[str]) -> int:
    """Print the versions."""
    values, rest = parse(words, table(options_of("version")), "version")
    if values.get("help"):
        return print_verb("version")
    if rest:
        raise UsageError(f"version takes no {rest[0]}", "version")
    found = versions()
    if values.get("json"):
        print(json.dumps(found))
    else:
        width = max(map(len, found)) + 1
        for name, number in found.items():
            print(f"{name:<{width}} {number}")
    return 0


def versions() -> dict[str, str]:
    """Return name -> version of our packages, of Python and of the kernel."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:  # run from a checkout, or the meta-package was left out
            found[name] = "not installed"
    found["python"] = f"{platform.python_implementation()} {platform.python_version()}"
    found["linux"] = f"{os.uname().release} {os.uname().machine}"
    found["landlock"] = f"ABI {landlock.abi_version()}"
    return found
