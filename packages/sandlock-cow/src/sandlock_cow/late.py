"""Files that run later, outside the sandbox: a data table of names at any depth, and what each is.

A program in a sandbox that may write them gets out by waiting. They are shown apart, and a commit refuses them unless
they are named.
"""

from __future__ import annotations

import os
import stat

__all__ = ["DIRECTORIES", "FILES", "GIT_RUNS", "PAIRS", "SUFFIXES", "late_mark"]

# The whole directory, at any depth: everything below runs or decides what runs.
DIRECTORIES: dict[tuple[bytes, ...], str] = {
    (b".githooks",): "git hook",
    (b".husky",): "git hook",
    (b".github", b"workflows"): "CI definition",
    (b".github", b"actions"): "CI definition",
    (b".github", b"hooks"): "git hook",
    (b".circleci",): "CI definition",
    (b".buildkite",): "CI definition",
    (b".gitlab",): "CI definition",
    (b".vscode",): "editor settings",
    (b".idea",): "editor settings",
    (b".devcontainer",): "editor settings",
    (b".config", b"fish"): "shell start-up file",
    (b".config", b"nvim"): "editor start-up file",
    (b".config", b"autostart"): "desktop autostart",
    (b".config", b"systemd"): "service definition",
    (b".config", b"environment.d"): "session environment",
    (b".local", b"share", b"systemd"): "service definition",
    (b".vim",): "editor start-up file",
    (b".emacs.d",): "editor start-up file",
    (b".ssh",): "ssh configuration",
    (b".claude",): "agent settings",
    (b".cursor",): "agent settings",
    (b".zed",): "editor settings",
    (b".ipython",): "interpreter start-up file",
    (b".local", b"bin"): "program on the search path",
}

# The last components of a path, at any depth.
PAIRS: dict[tuple[bytes, ...], str] = {
    (b".config", b"git", b"config"): "git configuration",
    (b".config", b"git", b"attributes"): "git filter",
    (b".cargo", b"config.toml"): "build configuration",
    (b".cargo", b"config"): "build configuration",
    (b".config", b"direnv", b"direnvrc"): "shell start-up file",
}

FILES: dict[bytes, str] = {
    b".git": "git link",
    b".gitconfig": "git configuration",
    b".pre-commit-config.yaml": "git hook",
    b"lefthook.yml": "git hook",
    b".bashrc": "shell start-up file",
    b".bash_profile": "shell start-up file",
    b".bash_login": "shell start-up file",
    b".bash_logout": "shell start-up file",
    b".bash_aliases": "shell start-up file",
    b".profile": "shell start-up file",
    b".zshrc": "shell start-up file",
    b".zshenv": "shell start-up file",
    b".zprofile": "shell start-up file",
    b".zlogin": "shell start-up file",
    b".zlogout": "shell start-up file",
    b".kshrc": "shell start-up file",
    b".cshrc": "shell start-up file",
    b".tcshrc": "shell start-up file",
    b".inputrc": "shell start-up file",
    b".envrc": "shell start-up file",
    b".pam_environment": "session environment",
    b".xprofile": "session start-up file",
    b".xinitrc": "session start-up file",
    b".xsession": "session start-up file",
    b".vimrc": "editor start-up file",
    b".gvimrc": "editor start-up file",
    b".exrc": "editor start-up file",
    b".nvimrc": "editor start-up file",
    b".emacs": "editor start-up file",
    b".dir-locals.el": "editor start-up file",
    b".gdbinit": "debugger start-up file",
    b".lldbinit": "debugger start-up file",
    b".rprofile": "interpreter start-up file",
    b".irbrc": "interpreter start-up file",
    b".tmux.conf": "terminal start-up file",
    b".pythonrc": "interpreter start-up file",
    b"sitecustomize.py": "interpreter start-up file",
    b"usercustomize.py": "interpreter start-up file",
    b".npmrc": "package manager configuration",
    b".yarnrc": "package manager configuration",
    b".yarnrc.yml": "package manager configuration",
    b".pypirc": "package manager configuration",
    b".gitlab-ci.yml": "CI definition",
    b".travis.yml": "CI definition",
    b"azure-pipelines.yml": "CI definition",
    b"bitbucket-pipelines.yml": "CI definition",
    b"Jenkinsfile": "CI definition",
    b".drone.yml": "CI definition",
    b".woodpecker.yml": "CI definition",
    b"appveyor.yml": "CI definition",
    b".mcp.json": "agent settings",
}

# Read by the interpreter at every start, from any directory of its path.
SUFFIXES: dict[bytes, str] = {b".pth": "interpreter start-up file", b".code-workspace": "editor settings"}

# What git keeps in a repository that says neither what runs nor where git looks: all else there is marked. Modules and
# worktrees hold repositories of their own.
_GIT_DATA = frozenset(
    (b"objects", b"refs", b"logs", b"index", b"head", b"commit_editmsg", b"packed-refs", b"orig_head", b"fetch_head",
     b"merge_head", b"merge_msg", b"merge_mode", b"auto_merge", b"cherry_pick_head", b"revert_head", b"rebase_head",
     b"squash_msg", b"description", b"shallow", b"gc.log", b"gc.pid", b"rr-cache")
)  # fmt: skip
GIT_RUNS = {
    b"hooks": "git hook",
    b"config": "git configuration",
    b"config.worktree": "git configuration",
    b"commondir": "git link",
    b"gitdir": "git link",
}


def late_mark(path: bytes, after: os.stat_result | None, bare: bytes = b"") -> str:
    """Why a change of `path` takes effect outside later, or "" when nothing says that it does.

    Case is ignored, as some file systems do. A removal is marked too (a removed hook protects nothing any more), except
    of what has no name in the table. `bare` is the part of `path` below a repository that is not called `.git`, if it
    lies in one: a HEAD is beside the part's first component.
    """
    parts = tuple(path.lower().split(b"/"))
    return _named(parts, after, bare.lower()) or _new_privilege(after)


def _named(parts: tuple[bytes, ...], after: os.stat_result | None, bare: bytes) -> str:
    if _is_sample(parts):
        return ""
    for index in range(len(parts)):
        for length in (1, 2, 3):
            reason = DIRECTORIES.get(parts[index : index + length])
            # The directory itself: only as something other than a directory (a link that leads elsewhere).
            if reason and (len(parts) > index + length or not _is_directory(after)):
                return reason
    reason = next((PAIRS[parts[-length:]] for length in (3, 2) if parts[-length:] in PAIRS), "")
    reason = reason or _FOLDED.get(parts[-1], "")
    if reason and not (parts[-1] == b".git" and _is_directory(after)):
        return reason
    if b".git" in parts[:-1]:
        return _inside_git(parts[parts.index(b".git") + 1 :], after)
    if bare and not _is_directory(after):
        return GIT_RUNS.get(bare.partition(b"/")[0], "")
    return SUFFIXES.get(os.path.splitext(parts[-1])[1], "")


def _is_sample(parts: tuple[bytes, ...]) -> bool:
    """Git writes these beside the hooks, and runs none of them."""
    return len(parts) > 1 and parts[-2] == b"hooks" and parts[-1].endswith(b".sample")


def _inside_git(below: tuple[bytes, ...], after: os.stat_result | None) -> str:
    """The mark of what lies in a `.git`; of a submodule's or a linked worktree's repository there as well."""
    if below[0] in (b"modules", b"worktrees"):
        # A submodule's name may have slashes, so where its repository begins cannot be told from the path alone.
        reason = next((GIT_RUNS[part] for part in below[1:] if part in GIT_RUNS), "")
        reason = reason or ("git filter" if below[-2:] == (b"info", b"attributes") else "")
        return reason or ("" if _is_regular_or_directory(after) else "git link")
    if below[0] in _GIT_DATA or below == (b"info", b"exclude"):
        # Its alternates and links lead git to objects elsewhere, and a link in place of a folder to anything.
        return "" if _is_regular_or_directory(after) else "git link"
    if below[0] == b"info":
        return "" if _is_directory(after) else "git filter"
    if _is_directory(after):
        return ""  # what it holds is marked by itself
    return GIT_RUNS.get(below[0], "") or ("" if after is None else "git repository file")


def _is_regular_or_directory(found: os.stat_result | None) -> bool:
    return found is None or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)


_FOLDED = {name.lower(): reason for name, reason in FILES.items()}


def _is_directory(found: os.stat_result | None) -> bool:
    return found is not None and stat.S_ISDIR(found.st_mode)


def _new_privilege(after: os.stat_result | None) -> str:
    """A program that gives whoever runs it the rights of its owner."""
    if after is None or not stat.S_ISREG(after.st_mode) or not after.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return ""
    if after.st_mode & stat.S_ISUID:
        return "set-user-ID program"
    return "set-group-ID program" if after.st_mode & stat.S_IXGRP else ""
