"""`sandlock profile`: the named profiles of this user."""

from __future__ import annotations

import os
import sys

from sandlock_cli.failure import lines_of, printable, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.verbs import PROFILE_ACTIONS, options_of
from sandlock_policy.errors import LayerMissingError, PolicyError
from sandlock_policy.profile.store import ProfileError, delete_profile, list_profiles, load_profile, load_profile_file
from sandlock_policy.validate import closest
from sandlock_runtime import host_features
from sandlock_runtime.prepare import make_context, plan_for

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Do what `words` name: 0, or 1 where a profile is missing or wrong."""
    values, rest = parse(words, table(options_of("profile")), "profile")
    if values.get("help"):
        return print_verb("profile")
    if not rest:
        raise UsageError("what is to be done with the profiles? " + ", ".join(PROFILE_ACTIONS), "profile")
    action, names = rest[0], rest[1:]
    if action not in PROFILE_ACTIONS:
        likely = closest(action, list(PROFILE_ACTIONS)) or ", ".join(PROFILE_ACTIONS)
        raise UsageError(f"nothing called {action} can be done with profiles; {likely}", "profile")
    files: list[str] = values.get("file", [])
    if action == "list":
        if names or files:
            raise UsageError("profile list takes no names", "profile")
        for name in list_profiles():
            print(printable(name))
        return 0
    if action == "check" and not names and not files:
        names = list_profiles()
    elif not names and not (files and action != "delete"):
        raise UsageError(f"profile {action} needs the name of a profile", "profile")
    if action == "delete" and files:
        raise UsageError("profile delete takes names; remove a file with rm", "profile")
    return max([_each(action, name, is_file=False) for name in names]
               + [_each(action, path, is_file=True) for path in files], default=0)  # fmt: skip


def _each(action: str, name: str, *, is_file: bool) -> int:
    """Do `action` with one profile; 1 where that failed, which is told."""
    try:
        if action == "delete":
            delete_profile(name)
            return 0
        policy = load_profile_file(name) if is_file else load_profile(name)
        if action == "show":
            sys.stdout.write(policy.to_toml())
            return 0
        context, _ = make_context(policy, None)
        plan = plan_for(policy, context, host_features())
    except (PolicyError, ProfileError, LayerMissingError) as error:
        for line in lines_of(error):
            warn(f"profile {name}: {line}" if name not in line else line)
        return 1
    missing = [path for path, _, required in plan.fs_rules if required and not os.path.exists(path)]
    for path in missing:
        warn(f"profile {name}: {path} does not exist; create it, take it out, or write -{path}")
    if not missing:
        print(f"{printable(name)}: right, and every rule can be enforced here")
    return 1 if missing else 0
