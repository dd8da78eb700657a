"""Paths: no spelling, link or descriptor leads out of the grants (security.md: FS-01 03 04 05 08 09)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from attack_lab import Area, Box, call, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_testkit.tree import Tree

HERE = -100  # AT_FDCWD, linux/fcntl.h
WRITE, READ_WRITE, TMPFILE = os.O_WRONLY, os.O_RDWR, os.O_TMPFILE
Words = list[str]


DETOURS: dict[str, Callable[[str, str], str]] = {
    # (work, target) -> another path of the target
    "dots": lambda work, target: f"{work}/../{os.path.relpath(target, os.path.dirname(work))}",
    "slashes": lambda _, target: target.replace("/", "//"),
    "self_dots": lambda _, target: target.replace("/", "/./"),
    "many_dots": lambda work, target: work + "/.." * 64 + target,
    "proc_root": lambda _, target: f"/proc/self/root{target}",
    "proc_thread_root": lambda _, target: f"/proc/thread-self/root{target}",
    "proc_cwd": lambda work, target: f"/proc/self/cwd/{os.path.relpath(target, work)}",
    "link": lambda work, _: f"{work}/to-secret",
    "link_in_link": lambda work, _: f"{work}/to-link",
    "folder_link": lambda work, target: f"{work}/to-folder/{os.path.basename(target)}",
    "relative_link": lambda work, _: f"{work}/to-relative",
    "hard_link": lambda work, _: f"{work}/hard",
}


@pytest.mark.every_abi
@pytest.mark.parametrize("detour", DETOURS)
@pytest.mark.parametrize("granted_proc", [False, True], ids=["", "proc"])
def test_fs_01_fs_03_fs_04_no_spelling_of_a_path_leads_out(
    box: Box, areas: dict[str, Area], detour: str, granted_proc: bool
) -> None:
    work, target = str(areas["work"].path), areas["secret"].at("file")
    os.symlink(target, f"{work}/to-secret")
    os.symlink("to-secret", f"{work}/to-link")
    os.symlink(os.path.dirname(target), f"{work}/to-folder")
    os.symlink(os.path.relpath(target, work), f"{work}/to-relative")
    os.link(target, f"{work}/hard")
    path = DETOURS[detour](work, target)
    words = [*call("read", "openat", HERE, path, 0), *call("write", "openat", HERE, path, WRITE)]
    bare = box.bare_lines("invoke", *words)
    assert bare["read"].won
    assert bare["write"].won
    extra = {"fs_readable": [*box.fields()["fs_readable"], "/proc"]} if granted_proc else {}
    inside = box.lines("invoke", *words, **extra)
    if detour == "hard_link":  # made outside, inside the grant, by the owner: it is a file of the grant
        assert inside["read"].won
        return
    assert not inside["read"].won
    assert not inside["write"].won


@pytest.mark.every_abi
def test_fs_05_no_hard_link_is_made_of_a_file_outside_the_write_grant(
    box: Box, areas: dict[str, Area], tree: Tree
) -> None:
    for source in (areas["read"].at("file"), areas["secret"].at("file")):
        new = f"{tree.work}/taken"
        words = [
            *call("link", "link", source, new),
            *call("linkat", "linkat", HERE, source, HERE, new, 0x400),
            *call("path", "openat", HERE, source, os.O_PATH),
            *call("empty", "linkat", "@path", "", HERE, new, 0x1000),
            *call("write", "openat", HERE, new, READ_WRITE),
        ]
        bare = box.bare_lines("invoke", *words)
        assert bare["link"].won
        assert bare["write"].won
        os.unlink(new)
        before = fingerprint(areas["secret"].path) + fingerprint(areas["read"].path)
        inside = box.lines("invoke", *words)
        assert not any(inside[name].won for name in ("link", "linkat", "empty", "write")), inside
        assert not os.path.lexists(new)
        assert fingerprint(areas["secret"].path) + fingerprint(areas["read"].path) == before, "not even a link count"


def test_fs_08_a_descriptor_is_not_reopened_for_writing(box: Box, areas: dict[str, Area]) -> None:
    path = areas["read"].at("file")
    words = [
        *call("read", "openat", HERE, path, 0),
        *call("by_self", "openat", HERE, "/proc/self/fd/3", READ_WRITE),
        *call("by_dev", "openat", HERE, "/dev/fd/3", READ_WRITE),
        *call("path", "openat", HERE, path, os.O_PATH),
        *call("by_path_fd", "openat", HERE, "/proc/self/fd/4", WRITE),
        *call("truncate", "truncate", "/proc/self/fd/3", 1),
        *call("ftruncate", "ftruncate", "@path", 1),
    ]
    before = fingerprint(areas["read"].path)
    extra = {"fs_readable": [*box.fields()["fs_readable"], "/proc", "/dev"]}
    inside = box.lines("invoke", *words, **extra)
    assert inside["read"].won
    assert not any(inside[name].won for name in inside.keys() - {"read", "path"}), inside
    assert fingerprint(areas["read"].path) == before
    bare = box.bare_lines("invoke", *words)
    assert bare["by_self"].won
    assert bare["truncate"].won


@pytest.mark.every_abi
def test_fs_08_a_path_descriptor_of_a_secret_gives_nothing(box: Box, areas: dict[str, Area]) -> None:
    words = [
        *call("path", "openat", HERE, areas["secret"].at("file"), os.O_PATH),
        *call("by_path_fd", "openat", HERE, "/proc/self/fd/3", 0),
        *call("folder", "openat", HERE, str(areas["secret"].path), os.O_PATH),
        *call("below", "openat", "@folder", "file", 0),
        *call("list", "openat", "@folder", ".", os.O_DIRECTORY),
        *call("enter", "fchdir", "@folder"),
        *call("relative", "openat", HERE, "file", 0),
    ]
    bare = box.bare_lines("invoke", *words)
    assert all(bare[name].won for name in ("by_path_fd", "below", "list", "relative"))
    inside = box.lines("invoke", *words, fs_readable=[*box.fields()["fs_readable"], "/proc"])
    assert not any(inside[name].won for name in ("by_path_fd", "below", "list", "relative")), inside


@pytest.mark.every_abi
def test_fs_09_an_unnamed_file_gets_a_name_only_in_the_write_grant(
    box: Box, areas: dict[str, Area], tree: Tree
) -> None:
    def words(target: str) -> Words:
        return [
            *call("open", "open", str(tree.work), TMPFILE | READ_WRITE, 0o600),
            *call("link", "linkat", HERE, "/proc/self/fd/3", HERE, target, 0x400),
            *call("empty", "linkat", "@open", "", HERE, target, 0x1000),
        ]

    extra = {"fs_readable": [*box.fields()["fs_readable"], "/proc"]}
    assert box.bare_lines("invoke", *words(areas["secret"].at("bare")))["link"].won
    os.unlink(areas["secret"].at("bare"))
    for denied in ("read", "secret"):
        inside = box.lines("invoke", *words(areas[denied].at("planted")), **extra)
        assert inside["open"].won
        assert not inside["link"].won
        assert not inside["empty"].won
        assert not os.path.lexists(areas[denied].at("planted"))
