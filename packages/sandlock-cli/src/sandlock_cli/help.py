"""`sandlock help`: what the verbs do, and every option with its default, made from the table."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING

from sandlock_cli.options import VERBS, Option, UsageError, parse, table
from sandlock_cli.verbs import ACTIONS, USAGES, options_of
from sandlock_policy.fields import FIELD_BY_NAME, GROUPS
from sandlock_policy.validate import closest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NOTES", "STATUSES", "TOP", "default_of", "main", "print_verb", "sections", "verb_text"]

STATUSES = (
    ("the program's own", "when it ended by itself"),
    ("128 + N", "when signal N ended it"),
    ("124", "when it was ended after --timeout"),
    ("125", "when the sandbox could not be set up, or the changes of a program that succeeded not be committed"),
    ("126", "when the program cannot be executed"),
    ("127", "when there is no such program"),
    ("2", "when the options of the command cannot be understood"),
)
NOTES = {
    "run": (
        (
            "Without --preset, --profile or --profile-file the preset `default` holds: the system's programs and the "
            "current directory may be read, a private temporary directory may be written, and there is no network. "
            "Other options add to it. `--preset none` starts from nothing."
        ),
        "A path that begins with - and then / or ~ is granted only where it exists: -r -/opt/tools.",
        (
            "With --dry-run the changes below --workdir (the current directory where none is given) are printed after "
            "the program's output, and dropped: A added, M modified, D removed, R renamed, with modes as git writes "
            "them. What it may write elsewhere is no part of that, so such grants are refused."
        ),
        (
            "With --image the command runs in the file system of an OCI image, and what it writes there is dropped. "
            "Paths of the other options are paths inside. Without a command the image's own is run."
        ),
        "What this host or this release cannot enforce is refused by name.",
    ),
    "learn": (
        (
            "The program runs with your own files and network, confined only in what every sandbox refuses: watch "
            "nothing that you would not run without a sandbox. It gets the clean environment and the private TMPDIR "
            "that it will have under the profile."
        ),
        (
            "The profile grants what was used. Programs and libraries are granted by the folder that they are "
            "installed in, many files of one folder by the folder, everything else by its name; what looks like a "
            "secret always. No folder that holds more than one program's business (the home directory, /etc) is "
            "granted because it was listed. What was left out, and what deserves a look, is told on stderr and in the "
            "profile's comments. One run shows one way through a program: other arguments may need more (--merge)."
        ),
    ),
    "mcp": (
        (
            "A client of the Model Context Protocol starts this and gets two tools, run_command and run_python. Each "
            "call runs in a fresh sandbox under the policy that the options here describe, which no call changes. "
            "Without a --timeout a call has 60 seconds. What still runs when the client goes is killed."
        ),
    ),
    "branches": (
        "A branch is what a run with --workdir left to decide about (--on-exit or --on-error keep or defer).",
    ),
    "diff": (
        (
            "BRANCH is a name that `sandlock branches` prints, or how only one begins; the path of a branch; or "
            "`last`, the newest over the current directory or a folder in it. With PATHs only these and what is below "
            "them are shown. The lines of a patch are the program's: on a terminal what is not printable is escaped."
        ),
    ),
    "commit": (
        (
            "With PATHs only these and what is below them are applied, as `sandlock diff` prints them; the rest waits. "
            "Where the tree was changed meanwhile nothing is applied. What would run later outside the sandbox (hooks, "
            "start-up files, CI definitions) is applied only where it is named itself, with --late or as a PATH."
        ),
    ),
    "ps": ("A run has a name where --name, or its profile, gives it one; several may have the same.",),
    "inspect": ("A profile made of --toml has no values of environment variables: they may be secrets.",),
    "logs": (
        "The log of the latest run with a name stays after its end, up to 1 MiB, until the machine is restarted.",
    ),
    "images": (
        (
            "An image is unpacked once, below $XDG_CACHE_HOME/sandlock/images (~/.cache), and kept until it is "
            "removed. One that a run uses is not removed."
        ),
    ),
    "checkpoint": (
        (
            "A run is saved whole, its copy-on-write branch with it, by the process that launched it; its standard "
            "streams are left to whoever restores it. Any other process is saved alone, or with --tree all below it."
        ),
    ),
    "restore": (
        (
            "What is restored is confined before its first instruction, by the policy that these options describe, as "
            "with run. It must not be wider than the one in the image: --allow policy takes that on. An image may be "
            "restored as often as wanted, at the same time too; the exit status is that of `sandlock run`."
        ),
    ),
    "kill": ("Everything that the run has started ends with SIGKILL, daemons included.",),
}
TOP = "Runs programs with nothing but what they are given, by means of the kernel (Landlock, seccomp), without root."


def main(words: list[str]) -> int:
    """Print the help of the verb in `words`, or of the command."""
    values, rest = parse(words, table(options_of("help")), "help")
    if values.get("help") or not rest:
        sys.stdout.write(_overview())
        return 0
    if rest[0] not in VERBS:
        likely = closest(rest[0], list(VERBS)) or "the verbs are " + ", ".join(VERBS)
        raise UsageError(f"there is no verb {rest[0]}; {likely}")
    return print_verb(rest[0])


def print_verb(verb: str) -> int:
    """Print the help of `verb`, and return 0."""
    sys.stdout.write(verb_text(verb))
    return 0


def default_of(option: Option) -> str:
    """Say what holds without `option`."""
    field = FIELD_BY_NAME.get(option.dest)
    if field is None:
        return option.default
    if field.kind == "bool":
        return "on" if field.default else "off"
    if field.default is None:
        return "no limit" if field.group == "limits" and not field.name.startswith(("num_", "gpu_")) else "not set"
    if field.shape != "one" or field.default == ():
        return "none"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def sections(options: Iterable[Option]) -> list[tuple[str, list[Option]]]:
    """Return (title, options) in the order of the reference: the command's own first."""
    grouped: dict[str, list[Option]] = {}
    for option in options:
        grouped.setdefault(option.group, []).append(option)
    titles = [title for title in grouped if title not in GROUPS.values()]
    titles += [title for title in GROUPS.values() if title in grouped]
    return [(title, grouped[title]) for title in titles]


def verb_text(verb: str, width: int | None = None) -> str:
    """Return the whole help of `verb`, for a terminal of `width` columns."""
    width = _width() if width is None else width
    lines = [f"Usage: {USAGES[verb]}", "", f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.", ""]
    for note in NOTES.get(verb, ()):
        lines += [*textwrap.wrap(note, width), ""]
    for title, options in sections(options_of(verb)):
        lines.append(f"{title}:")
        for option in options:
            lines += _option_lines(option, width)
        lines.append("")
    for action, text in ACTIONS.get(verb, {}).items():
        lines.append(f"  {action:<8}  {text}")
    if verb in ACTIONS:
        lines.append("")
    if verb == "run":
        lines.append("Exit status:")
        lines += [f"  {status:<18} {when}" for status, when in STATUSES]
        lines.append("")
    return "\n".join(lines)


def _option_lines(option: Option, width: int) -> list[str]:
    flags = ", ".join((*option.flags, option.off_flag) if option.off_flag else option.flags)
    if option.metavar:
        flags += f" {option.metavar}"
    indent = " " * (2 if option.flags[0][:2] != "--" else 6)
    default = default_of(option)
    text = f"{option.help}{' (repeatable)' if option.many else ''}{f' [{default}]' if default else ''}"
    return [f"{indent}{flags}", *textwrap.wrap(text, width, initial_indent=" " * 10, subsequent_indent=" " * 10)]


def _overview() -> str:
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {verb:<{width}}{summary}" for verb, summary in VERBS.items())
    return (
        f"Usage: sandlock VERB [OPTION...]\n\n{TOP}\n\n"
        f"Verbs:\n{verbs}\n\n"
        "  -h, --help       explain the command\n"
        "  -V, --version    print the versions\n\n"
        "`sandlock VERB --help` explains a verb. Options without a verb are those of `run`.\n\n"
        "Examples:\n"
        "  sandlock run -- python3 script.py\n"
        "  sandlock run -w build -- make\n"
        "  sandlock run -t 10 --net-allow tcp://:443 -- ./client 192.0.2.1\n"
    )


def _width() -> int:
    try:
        columns = os.get_terminal_size(1).columns
    except (OSError, ValueError):
        columns = 100
    return max(40, min(columns, 100))
