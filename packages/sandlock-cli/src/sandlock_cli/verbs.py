"""The verbs beside `run`: how each is written, and its options."""

from __future__ import annotations

from sandlock_cli.options import HELP, Option, run_options
from sandlock_policy.fields import FIELD_BY_NAME

__all__ = ["ACTIONS", "IMAGES_ACTIONS", "IMAGE_ACTIONS", "PROFILE_ACTIONS", "SHELLS", "USAGES", "options_of"]

SHELLS = ("bash", "zsh", "fish")

PROFILE_ACTIONS = {
    "list": "print the names of the profiles",
    "show": "print profiles, with everything in its canonical form",
    "check": "tell whether profiles are right and can be enforced here; all of them where none is named",
    "delete": "remove profiles",
}

IMAGE_ACTIONS = {
    "show": "print what images are of; their metadata is checked, the contents of memory are not",
    "verify": "read all of the images, and tell whether they are as they were saved",
}

IMAGES_ACTIONS = {
    "list": "print the unpacked images: digest, when it was unpacked, size, source",
    "remove": "remove images, each named by the beginning of its digest",
}

# verb -> what can be done with it, and what that means
ACTIONS = {"profile": PROFILE_ACTIONS, "image": IMAGE_ACTIONS, "images": IMAGES_ACTIONS}

USAGES = {
    "run": "sandlock run [OPTION...] [--] COMMAND [ARGUMENT...]",
    "learn": "sandlock learn [OPTION...] [--] COMMAND [ARGUMENT...]",
    "check": "sandlock check [--json]",
    "profile": "sandlock profile list | show NAME... | check [NAME...] [--file FILE] | delete NAME...",
    "branches": "sandlock branches [--storage DIR] [--json]",
    "diff": "sandlock diff [--patch | --json] [--storage DIR] BRANCH [PATH...]",
    "commit": "sandlock commit [--storage DIR] [--late PATH]... [--json] BRANCH [PATH...]",
    "discard": "sandlock discard [--storage DIR] BRANCH...",
    "ps": "sandlock ps [--json]",
    "inspect": "sandlock inspect [--toml | --html | --json] NAME|PID",
    "logs": "sandlock logs [--follow] [--json | --html] NAME|PID | --file FILE",
    "kill": "sandlock kill [--all] NAME|PID...",
    "checkpoint": "sandlock checkpoint [OPTION...] NAME DIR | --pid PID [OPTION...] DIR",
    "restore": "sandlock restore [OPTION...] DIR",
    "image": "sandlock image show DIR... | verify DIR... [--json]",
    "images": "sandlock images list [--json] | remove [--all] [DIGEST...]",
    "mcp": "sandlock mcp [OPTION...]",
    "completion": f"sandlock completion {' | '.join(SHELLS)}",
    "version": "sandlock version [--json]",
    "help": "sandlock help [VERB]",
}

_JSON = Option("json", ("--json",), "", "print one JSON object", "off")
_FILE = Option("file", ("--file",), "FILE", "with show or check: the profile in FILE", "none")
_FILE.many = True

_STORAGE = Option("storage", ("--storage",), "DIR", "where the branch is kept: --fs-storage of its run",
                  "~/.local/state/sandlock/branches")  # fmt: skip
_PATCH = Option("patch", ("-p", "--patch"), "", "show the lines that differ, as a patch in git's format", "off")
_LATE = Option("late", ("--late",), "PATH", "apply PATH though it runs later outside the sandbox", "none")
_LATE.many = True
_TOML = Option("toml", ("--toml",), "", "print the policy alone, as a profile", "off")
_FOLLOW = Option("follow", ("-f", "--follow"), "", "go on printing until the run ends", "off")
_HTML = Option("html", ("--html",), "", "print a page for a browser, which needs nothing else", "off")
_AUDIT_FILE = Option("file", ("--file",), "FILE", "of the run that --audit FILE recorded", "none")
_ALL = Option("all", ("-a", "--all"), "", "end all of them where several have the name", "off")
_QUIET = Option("quiet", ("-q", "--quiet"), "", "no progress on a terminal", "off")
_EVERY = Option("all", ("-a", "--all"), "", "with remove: every image that no run uses", "off")

_PID = Option("pid", ("--pid",), "PID", "any process that the caller may trace (ptrace), instead of a run", "none")
_TREE = Option("tree", ("--tree",), "", "and every process below it; of a run always all are saved", "off")
_LEAVE = Option("leave", ("--leave",), "STATE", "what becomes of it: running, stopped or killed", "running")
_ALLOW = Option(
    "allow", ("--allow",), "NAME", "go on without what cannot be saved or restored, by its name or its kind", "none"
)
_ALLOW.many = True
_PARENT = Option(
    "parent", ("--parent",), "DIR", "an image beside DIR: only pages that differ from it are written", "none"
)
_TRACK = Option("track", ("--track",), "", "watch the run from now on: the next image on this one reads what it wrote "
                "since; where that cannot be, which is told, pages are compared. With --pid the command stays until "
                "its input ends, and each line of that is the directory of another image on the one before", "off",
                )  # fmt: skip
_ZSTD = Option("zstd", ("--zstd",), "", "compress (with the package zstandard)", "off")

_NAME = Option("name", ("--name",), "NAME", "the profile to write", "the program's name")
_OUTPUT = Option("output", ("-o", "--output"), "FILE", "write the profile to FILE instead; - is stdout", "none")
_MERGE = Option("merge", ("--merge",), "", "add to the profile that is there", "off")
_REPLACE = Option("replace", ("--replace",), "", "write the profile anew where there is one", "off")
_EXACT = Option("exact", ("--exact",), "", "name every file by itself, also those of the system's folders", "off")
_VERIFY = Option("verify", ("--verify",), "", "then run the command again, under the profile", "off")
_TIMEOUT = Option("timeout", ("-t", "--timeout"), "SECONDS", "seconds until the program gets SIGTERM", "no limit")
_ENV = Option("env", ("--env",), "NAME[=VALUE]", "a variable to set, or to pass on, here and in the profile", "none")
_ENV.many = True

_MAX_OUTPUT = Option(
    "max_output", ("--max-output",), "SIZE", "of stdout and of stderr, what a call returns; 16M at most", "64K"
)
_SAVED = Option("saved_policy", ("--saved-policy",), "",
                "start from the policy in the image, which is to be trusted like a profile", "off")  # fmt: skip
# Options of `run` that say what is run, or how it is told.
_NOT_RESTORED = ("shell", "json", "status_fd", "explain", "dry_run", "audit", "quiet", "image", "interactive")

_OPTIONS = {
    "learn": (_NAME, _OUTPUT, _MERGE, _REPLACE, _EXACT, _VERIFY, _TIMEOUT, _ENV, HELP),
    "check": (_JSON, HELP),
    "profile": (_FILE, HELP),
    "branches": (_STORAGE, _JSON, HELP),
    "diff": (_PATCH, _STORAGE, _JSON, HELP),
    "commit": (_STORAGE, _LATE, _QUIET, _JSON, HELP),
    "discard": (_STORAGE, HELP),
    "ps": (_JSON, HELP),
    "inspect": (_TOML, _HTML, _JSON, HELP),
    "logs": (_FOLLOW, _AUDIT_FILE, _HTML, _JSON, HELP),
    "kill": (_ALL, HELP),
    "checkpoint": (_PID, _TREE, _LEAVE, _ALLOW, _PARENT, _TRACK, _ZSTD, _QUIET, _JSON, HELP),
    "image": (_QUIET, _JSON, HELP),
    "images": (_EVERY, _JSON, HELP),
    "completion": (HELP,),
    "version": (_JSON, HELP),
    "help": (HELP,),
}


def options_of(verb: str) -> list[Option]:
    """Return the options of `verb`."""
    if verb == "run":
        return run_options()
    if verb == "mcp":
        named = ("preset", "profile", "profile_file", "help")
        policy = [option for option in run_options() if option.dest in named or option.dest in FIELD_BY_NAME]
        return [_MAX_OUTPUT, *policy]
    if verb == "restore":
        return [_ALLOW, _SAVED, *[option for option in run_options() if option.dest not in _NOT_RESTORED]]
    return list(_OPTIONS[verb])
