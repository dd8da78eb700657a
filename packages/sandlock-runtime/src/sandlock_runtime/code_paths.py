"""Where a confined interpreter finds the caller's code: the folders of `sys.path`, and the main script."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandlock_policy import Policy

__all__ = ["import_paths", "main_script", "with_code"]


def main_script() -> str:
    """Return the path of the caller's main script, or "" where it has none."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(path) if path and os.path.isfile(path) else ""


def import_paths() -> str:
    """Return `sys.path` as JSON, to be an argument of an interpreter."""
    return json.dumps([os.path.abspath(path) for path in sys.path])


def with_code(policy: Policy) -> Policy:
    """Return the policy with read grants for what is imported: the interpreter's folders, `sys.path`, the main script.

    Never `/`, the home directory or one that holds it: a script in `~` must not make all of it readable.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    folders = dict.fromkeys(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sys.path))
    granted = [path for path in folders if path != "/" and not f"{home}/".startswith(f"{path}/")]
    script = main_script()
    more = [f"-{path}" for path in (*granted, *([os.path.realpath(script)] if script else ()))]
    return policy.replace(fs_readable=(*policy.fs_readable, *more))
