"""What runs later: marked below every repository, under any case, and what git merely stores is not."""

from __future__ import annotations

import os

import pytest

from sandlock_cow.late import late_mark

FOLDER, FILE, LINK = (
    os.stat_result((mode | 0o755, 1, 1, 1, 0, 0, 0, 0, 0, 0)) for mode in (0o040000, 0o100000, 0o120000)
)


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks/pre-commit", ".git/commondir", ".git/config", ".GIT/Config", "sub/.git/config.worktree", ".git",
        ".git/info/attributes", ".git/modules/a/b/config", ".git/modules/a/hooks/x", ".git/worktrees/w/commondir",
        ".git/worktrees/w/gitdir", ".git/unheard-of", ".git/rebase-merge/git-rebase-todo", ".Rprofile", ".irbrc",
        ".tmux.conf", ".local/bin/ls", ".ipython/profile_default/startup/x.py", ".zed/tasks.json", "a.code-workspace",
        ".envrc", ".git/config.sample", "x/hooks/pre-commit.sample/../.bashrc",
    ],
)  # fmt: skip
def test_fs22_what_runs_later_is_marked(path: str) -> None:
    assert late_mark(path.encode(), FILE)


@pytest.mark.parametrize(
    "path",
    [
        ".git/objects/ab/cd", ".git/refs/heads/config", ".git/logs/HEAD", ".git/index", ".git/HEAD", ".git/packed-refs",
        ".git/COMMIT_EDITMSG", ".git/ORIG_HEAD", ".git/FETCH_HEAD", ".git/info/exclude", ".git/hooks/pre-commit.sample",
        ".git/modules/a/HEAD", ".git/worktrees/w/index", "hooks/use.ts", "config", "README.sample",
    ],
)  # fmt: skip
def test_what_git_stores_is_not_marked(path: str) -> None:
    assert late_mark(path.encode(), FILE) == ""


def test_a_folder_is_marked_by_what_is_in_it_and_a_link_in_its_place_at_once() -> None:
    for path in (b".git", b".git/hooks", b".git/objects", b".git/modules", b".git/info"):
        assert late_mark(path, FOLDER) == ""
        assert late_mark(path, LINK)


def test_fs22_a_repository_of_any_name_has_hooks_and_a_configuration() -> None:
    for bare in (b"config", b"hooks/post-receive", b"Config"):
        assert late_mark(b"store/" + bare, FILE, bare)
        assert late_mark(b"store/" + bare, FILE) == ""
