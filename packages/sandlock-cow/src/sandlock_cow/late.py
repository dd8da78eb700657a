"""Files that run later, outside the sandbox: a data table of names at any depth, and what each is.

A program in a sandbox that may write them gets out by waiting. They are shown apart, and a commit refuses them unless
they are named.
"""

from __future__ import annotations

import os
import stat

__all__ = ["DIRECTORIES", "FILES", "PAIRS", "SUFFIXES", "late_mark"]

# The whole directory, at any depth: everything below runs or decides what runs.
DIRECTORIES: dict[tuple[bytes, ...], str] = {
    (b".git", b"hooks"): "git hook",
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
}

# The last components of a path, at any depth.
PAIRS: dict[tuple[bytes, ...], str] = {
    (b".git", b"config"): "git configuration",
    (b".git", b"config.worktree"): "git configuration",
    (b".git", b"info", b"attributes"): "git filter",
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
SUFFIXES: dict[bytes, str] = {b".pth": "interpreter start-up file"}

# Where repositories hide below a `.git`: hooks and config of a submodule or of a linked worktree.
_INSIDE_GIT = {b"hooks": "git hook", b"config": "git configuration", b"config.worktree": "git configuration"}


def late_mark(path: bytes, after: os.stat_result | None) -> str:
    """Why a change of `path` takes effect outside later, or "" when nothing says that it does.

    Case is ignored, as some file systems do. A removal is marked too (a removed hook protects nothing any more), except
    of what has no name in the table.
    """
    parts = tuple(path.lower().split(b"/"))
    if parts[-1].endswith(b".sample"):
        return ""  # git writes these beside the hooks, and runs none of them
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
        below = parts[parts.index(b".git") + 1 :]
        reason = next((_INSIDE_GIT[part] for part in below[1:] if part in _INSIDE_GIT), "")
        if reason:
            return reason
    suffix = os.path.splitext(parts[-1])[1]
    return SUFFIXES.get(suffix, "") or _new_privilege(after)


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
