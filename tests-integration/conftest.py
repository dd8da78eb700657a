"""Fixtures of the integration tests: the worlds a sandbox is made in, the attack programs, the things they attack."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # attack_lab.py is beside this file, and belongs to no package

from attack_lab import Area, Box, World, alive_with, read_lines

from sandlock_runtime.loop import proxy_loop, shared_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandlock_testkit.tree import Tree

ATTACKS = Path(__file__).parent / "attacks"
FLAGS = {"foreign": ("-no-pie",), "elf32": ("-m32", "-nostdlib", "-fno-pie", "-no-pie")}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of this suite."""
    config.addinivalue_line("markers", "every_abi: run under each Landlock ABI up to the host's, not only the newest")
    config.addinivalue_line("markers", "older_landlock: run with namespaces, under two older ABIs and the host's")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that uses a world both ways of namespaces; with `every_abi` each older Landlock too.

    With namespaces two of these: before ABI 3 everything that they can hold instead is held by them, after 4 signals.
    """
    if "world" not in metafunc.fixturenames:
        return
    if metafunc.definition.get_closest_marker("older_landlock"):
        metafunc.parametrize("world", [World("auto", 2), World("auto", 5), World("auto")], ids=str)
        return
    worlds = [World("auto"), World("off")]
    if metafunc.definition.get_closest_marker("every_abi"):
        from sandlock_testkit.features import level

        worlds += [World("off", abi) for abi in range(1, level("landlock"))]
        worlds += [World("auto", abi) for abi in (2, 5) if abi < level("landlock")]
    metafunc.parametrize("world", worlds, ids=str)


@pytest.fixture(scope="session", autouse=True)
def _loops() -> None:
    """Start the two threads that a process keeps once it has needed them, so that no test is charged for them."""
    shared_loop()
    proxy_loop()


@pytest.fixture(scope="session")
def program(compile_c: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`program(name) -> path`: the built attack program `attacks/NAME.c`; an absolute path is given back as it is."""
    built: dict[str, str] = {}

    def build(name: str) -> str:
        if name.startswith("/"):
            return name
        if name not in built:
            source = (ATTACKS / f"{name}.c").read_text()
            built[name] = str(compile_c(source, f"-I{ATTACKS}", *FLAGS.get(name, ())))
        return built[name]

    return build


@pytest.fixture
def box(program: Callable[[str], str], world: World, tree: Tree) -> Box:
    """Programs bare and inside: the tree's `read` is readable, its `work` writable and the working directory."""
    return Box(program, world, tree.work, [str(tree.read)])


@pytest.fixture
def areas(tree: Tree) -> dict[str, Area]:
    """One of everything in each part of the tree, and in a part beside it for the bare attacks."""
    made = {name: Area.make(tree.root / name) for name in ("work", "read", "secret")}
    made["bare"] = Area.make(tree.root / "bare")
    return made


@pytest.fixture
def alone() -> Iterator[None]:
    """Keep other runs of these tests, such as the other user's half, from storms of their own meanwhile."""
    path = "/tmp/sandlock-tests.storm"
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@pytest.fixture
def mark() -> Iterator[str]:
    """A word that no other process has in its arguments; when the test ends, nobody may have it."""
    word = f"mark-{uuid.uuid4().hex}"
    yield word
    assert not alive_with(word)


class Victim:
    """A process of the same user, in our session, that tells what was done to it (see attacks/victim.c)."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0, bufsize=1
        )
        assert self._process.stdout is not None
        self.handles = self._process.stdout.readline().split()
        self.pid = self._process.pid

    def state(self) -> str:
        """Memory, signals, limits and scheduling of it, as one line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("state\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def end(self) -> None:
        """End it; it is ours."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def new_victim(program: Callable[[str], str]) -> Iterator[Callable[[], Victim]]:
    """`new_victim() -> Victim`; all end with the test."""
    made: list[Victim] = []

    def make() -> Victim:
        made.append(Victim(program("victim")))
        return made[-1]

    yield make
    for one in made:
        one.end()


__all__ = ["Victim", "read_lines"]
