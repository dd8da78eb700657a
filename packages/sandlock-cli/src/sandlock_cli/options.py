"""The options of every verb, and the parser that reads them. LEAN.

The parser is our own because start-up is what `sandlock run` costs: beside `python3 -c pass` (10.6 ms here, the best of
60 paired runs) `import argparse` takes 7.7 ms more and `import click` 30 ms; this module takes 0.2 ms beside the policy
that a run needs anyway. The policy's options come from `sandlock_policy.fields`, so a field that is added there is an
option, with its help, at once.

GNU style: `--opt value`, `--opt=value`, `-o value`, `-ovalue`, `-qovalue`; `--` ends the options. There are no
abbreviations: an option that is added later would change what they mean.
"""

from __future__ import annotations

from sandlock_policy.fields import FIELDS, GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeAlias

    Table: TypeAlias = Mapping[str, tuple["Option", bool]]

__all__ = ["HELP", "VERBS", "Option", "UsageError", "parse", "run_options", "table"]

# What the command can do; each is the module of this package with that name.
VERBS: dict[str, str] = {
    "run": "run a program in a sandbox",
    "learn": "watch a program, and write a profile of what it uses",
    "check": "tell what this host can enforce, and what to do about the rest",
    "branches": "list the changes that wait for a decision",
    "diff": "show what a branch would change",
    "commit": "apply the changes of a branch, all or some",
    "discard": "drop the changes of a branch",
    "ps": "list the runs that have a name",
    "inspect": "show a run that has a name, or its policy",
    "logs": "print what the supervisor of a named run told",
    "kill": "end a run that has a name",
    "profile": "list, show, check or delete profiles",
    "checkpoint": "save a run that has a name, or any process, as an image; it runs on",
    "restore": "bring an image back to life in a sandbox",
    "image": "show or verify the images of saved processes",
    "images": "list or remove the file systems that --image has unpacked",
    "mcp": "serve a model's tools, each call in a sandbox, on stdin and stdout",
    "completion": "print the completion script of a shell",
    "version": "print the versions of sandlock and of what it runs on",
    "help": "explain the command or one of its verbs",
}

_OWN = "This command"


class UsageError(Exception):
    """The words of the command line cannot be understood; `verb` is whose help to read, or an empty string."""

    def __init__(self, reason: str, verb: str = "") -> None:
        super().__init__(reason)
        self.verb = verb


class Option:
    """One option.

    Attributes:
        dest: the name of its value; for a policy field the field's.
        flags: its spellings, the short one first.
        metavar: what its value is called, or "" for a switch.
        help: one line.
        default: what holds without it, in words.
        group: the title it stands under in help.
        off_flag: the spelling that sets a switch to false, or "".
        many: it may be repeated, and the values add up.
        commas: one value may be a comma list of several.

    """

    __slots__ = ("commas", "default", "dest", "flags", "group", "help", "many", "metavar", "off_flag")

    def __init__(
        self, dest: str, flags: tuple[str, ...], metavar: str, text: str, default: str, group: str = _OWN
    ) -> None:
        self.dest = dest
        self.flags = flags
        self.metavar = metavar
        self.help = text
        self.default = default
        self.group = group
        self.off_flag = ""
        self.many = False
        self.commas = False


HELP = Option("help", ("-h", "--help"), "", "explain this, and do nothing", "")

_OWN_OPTIONS = (
    Option("preset", ("--preset",), "NAME",
           "start from a ready-made policy: default, none, python, node, build, rust, git or agent",
           "default, unless there is a profile"),
    Option("profile", ("-p", "--profile"), "NAME", "start from a profile of yours; repeated: merged in this order",
           "none"),
    Option("profile_file", ("--profile-file",), "FILE", "start from the profile in FILE; merged after --profile",
           "none"),
    Option("shell", ("-e", "--shell"), "COMMAND", "run COMMAND with /bin/sh; further words are its $1, $2, ...",
           "none"),
    Option("interactive", ("-i", "--interactive"), "", "give the program a terminal of its own, with job control",
           "off"),
    Option("json", ("--json",), "", "capture the program's output and print one JSON object with it and the result",
           "off"),
    Option("status_fd", ("--status-fd",), "FD", "write the result there as one line of JSON; output is left alone",
           "none"),
    Option("explain", ("--explain",), "", "print the policy and which layer enforces each rule; run nothing", "off"),
    Option("dry_run", ("--dry-run",), "", "run on a copy-on-write view of workdir, print what changed, change nothing",
           "off"),
    Option("audit", ("--audit",), "FILE", "append every event of the run to FILE, one JSON object in a line", "none"),
    Option("trackable", ("--trackable",), "", "let `checkpoint --track` watch the run, also where root does not run it",
           "off"),
    Option("quiet", ("-q", "--quiet", "--no-hints"), "", "no hints on stderr after a failure, and no progress", "off"),
    HELP,
)  # fmt: skip

_COMMA_KINDS = ("protections", "disabled", "syscalls", "ports")


def run_options() -> list[Option]:
    """Return the options of `run`: the command's own, then one for each policy field that has a flag."""
    options = list(_OWN_OPTIONS)
    for option in options[1:3]:
        option.many = True
    for field in FIELDS:
        if not field.flags:
            continue
        option = Option(field.name, field.flags, field.metavar, field.help, "", GROUPS[field.group])
        option.off_flag = field.off_flag
        option.many = field.shape != "one"
        option.commas = field.kind in _COMMA_KINDS
        options.append(option)
    return options


def table(options: Iterable[Option]) -> dict[str, tuple[Option, bool]]:
    """Return flag -> (option, what a switch of this spelling says)."""
    flags = {}
    for option in options:
        for flag in option.flags:
            flags[flag] = (option, True)
        if option.off_flag:
            flags[option.off_flag] = (option, False)
    return flags


def parse(words: list[str], options: Table, verb: str, *, command: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the options in `words`, by `dest`, and the other words.

    A switch's value is a bool, that of an option with `many` a list, any other one text, of which the last counts.
    With `command` the first word that is no option begins a command, which is left alone.

    Raises:
        UsageError: an option that does not exist, lacks its value, or has one where none belongs.

    """
    values: dict[str, Any] = {}
    rest: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            return values, rest + words[index:]
        if word[:1] != "-" or word == "-":
            if command:
                return values, words[index - 1 :]
            rest.append(word)
            continue
        if word[1] == "-":
            flag, equals, value = word.partition("=")
            attached = value if equals else None
        else:
            flag, attached = word[:2], word[2:] or None
        while flag:
            option, state = _find(flag, options, verb)
            cluster = ""
            if not option.metavar:
                if attached is not None and word[1] == "-":
                    raise UsageError(f"{flag} takes no value", verb)
                values[option.dest] = state
                cluster, attached = (f"-{attached[0]}", attached[1:] or None) if attached else ("", None)
            else:
                if attached is None:
                    attached = _next(words, index, flag, option, verb)
                    index += 1
                _store(values, option, attached)
            flag = cluster
    return values, rest


def _find(flag: str, options: Table, verb: str) -> tuple[Option, bool]:
    found = options.get(flag)
    if found is None:
        from sandlock_policy.validate import closest  # lazy: only a mistake pays for it

        likely = closest(flag, [name for name in options if name[:2] == "--"]) if flag[:2] == "--" else ""
        raise UsageError(f"unknown option {flag}" + (f"; {likely}" if likely else ""), verb)
    return found


def _next(words: list[str], index: int, flag: str, option: Option, verb: str) -> str:
    """Return the word after `flag` as its value."""
    if index >= len(words):
        raise UsageError(f"{flag} needs a value: {flag} {option.metavar}", verb)
    value = words[index]
    if value[:2] == "--":  # a forgotten value would swallow the next option, or the end of the options
        raise UsageError(f"{flag} needs a value, and {value} follows; if that is meant, write {flag}={value}", verb)
    return value


def _store(values: dict[str, Any], option: Option, value: str) -> None:
    if not option.many:
        values[option.dest] = value
        return
    items = value.split(",") if option.commas else [value]
    values.setdefault(option.dest, []).extend(items)
