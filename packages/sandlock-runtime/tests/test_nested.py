"""A sandbox in a sandbox: the inner one narrows, and what the outer one refuses stays refused."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from runtime_lab import SYSTEM, box

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

pytestmark = pytest.mark.usefixtures("leaks")

SOURCES = [path for path in sys.path if path and os.path.isdir(path)]
INNER = """
import sys
sys.path[:0] = {sources!r}
from sandlock_runtime import Sandbox
from sandlock_runtime.errors import SandboxError
sandbox = Sandbox(fs_readable={readable!r}, fs_writable={writable!r}, timeout=30)
result = sandbox.run({command!r})
sys.stdout.buffer.write(result.stdout)
sys.stderr.buffer.write(result.stderr)
print([row.layer for row in result.protections if row.name == "fs_metadata"], result.reason)
sys.exit(result.exit_code)
"""


def inner(tree: Tree, command: list[str], readable: tuple[str, ...] = ()) -> list[str]:
    return [
        sys.executable, "-c",
        INNER.format(sources=SOURCES, readable=[*SYSTEM, *readable], writable=[str(tree.work)], command=command),
    ]  # fmt: skip


def outer(tree: Tree, *readable: str) -> list[str]:
    return [*SOURCES, sys.prefix, "/etc", *readable]


def test_the_inner_one_runs_and_writes_where_both_grant(tree: Tree) -> None:
    sandbox = box(fs_readable=outer(tree), fs_writable=[str(tree.work), "/dev/null"], timeout=60)
    result = sandbox.run(inner(tree, ["sh", "-c", f"echo in > {tree.work}/mark; cat {tree.work}/mark"]))
    assert result.exit_code == 0, result.stderr
    # No namespace can be made inside, so the inner one falls back to seccomp.
    assert result.stdout.decode().splitlines() == ["in", "['seccomp'] EXITED"]


def test_the_inner_one_narrows(tree: Tree) -> None:
    data = f"{tree.read}/data.txt"
    sandbox = box(fs_readable=outer(tree, str(tree.read)), fs_writable=[str(tree.work), "/dev/null"], timeout=60)
    assert sandbox.run(["cat", data]).stdout.decode() == tree.readable
    assert tree.readable not in sandbox.run(inner(tree, ["cat", data])).stdout.decode()
    granted = sandbox.run(inner(tree, ["cat", data], (str(tree.read),)))
    assert tree.readable in granted.stdout.decode(), granted.stderr


def test_the_inner_one_cannot_grant_what_the_outer_one_does_not(tree: Tree) -> None:
    sandbox = box(fs_readable=outer(tree), fs_writable=[str(tree.work), "/dev/null"], timeout=60)
    result = sandbox.run(inner(tree, ["cat", str(tree.canary.path)], (str(tree.secret),)))
    assert result.exit_code != 0 and tree.canary.secret not in result.stdout.decode()
    assert "traceback" in result.stderr.decode().lower() or "denied" in result.stderr.decode().lower()


def test_the_end_of_the_outer_one_is_the_end_of_the_inner_one(tree: Tree) -> None:
    sandbox = box(fs_readable=outer(tree), fs_writable=[str(tree.work), "/dev/null"], grace=0)
    seconds = f"61.{os.getpid()}"  # a mark: whoever runs these tests beside us has another
    result = sandbox.run(inner(tree, ["sh", "-c", f"touch {tree.work}/mark; sleep {seconds}"]), timeout=5)
    assert result.reason == "TIMEOUT"
    assert (tree.work / "mark").exists()
    commands = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                commands.append(file.read())
        except OSError:
            continue
    assert f"sleep\0{seconds}\0".encode() not in commands


def test_a_missing_null_device_is_named_with_its_remedy(tree: Tree) -> None:
    result = box(fs_readable=outer(tree), fs_writable=[str(tree.work)], timeout=60).run(inner(tree, ["true"]))
    assert result.exit_code != 0
    assert b"stdio" in result.stderr and b"-w /dev/null" in result.stderr
