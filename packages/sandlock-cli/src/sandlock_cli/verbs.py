"""The verbs beside `run`: how each is written, and its options."""

from __future__ import annotations

from sandlock_cli.options import HELP, Option, run_options

__all__ = ["PROFILE_ACTIONS", "SHELLS", "USAGES", "options_of"]

SHELLS = ("bash", "zsh", "fish")

PROFILE_ACTIONS = {
    "list": "print the names of the profiles",
    "show": "print profiles, with everything in its canonical form",
    "check": "tell whether profiles are right and can be enforced here; all of them where none is named",
    "delete": "remove profiles",
}

USAGES = {
    "run": "sandlock run [OPTION...] [--] COMMAND [ARGUMENT...]",
    "check": "sandlock check [--json]",
    "profile": "sandlock profile list | show NAME... | check [NAME...] [--file FILE] | delete NAME...",
    "completion": f"sandlock completion {' | '.join(SHELLS)}",
    "version": "sandlock version [--json]",
    "help": "sandlock help [VERB]",
}

_JSON = Option("json", ("--json",), "", "print one JSON object", "off")
_FILE = Option("file", ("--file",), "FILE", "with show or check: the profile in FILE", "none")
_FILE.many = True

_OPTIONS = {
    "check": (_JSON, HELP),
    "profile": (_FILE, HELP),
    "completion": (HELP,),
    "version": (_JSON, HELP),
    "help": (HELP,),
}


def options_of(verb: str) -> list[Option]:
    """Return the options of `verb`."""
    return run_options() if verb == "run" else list(_OPTIONS[verb])
