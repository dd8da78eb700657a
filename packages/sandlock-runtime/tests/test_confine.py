"""`confine`: the calling process gives up files and system calls for good."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from runtime_lab import OLD_LANDLOCK, SYSTEM, in_child

from sandlock_policy import Policy, PolicyError
from sandlock_policy.errors import LayerMissingError
from sandlock_policy.features import HostFeatures, features_of_abi
from sandlock_runtime import ConfinementError, confine, host_features, override

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_testkit.outsider import Outsider
    from sandlock_testkit.tree import Tree

pytestmark = pytest.mark.usefixtures("leaks")


def agreed(**fields: Any) -> Policy:
    """A policy that gives up by name what this kernel lacks: there are no namespaces here that would hold it."""
    return Policy(allow_degraded=OLD_LANDLOCK, **fields)


def errno_of(call: Callable[[], Any]) -> int:
    """The errno that `call()` fails with; 0 when it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def test_files_are_those_of_the_grants(tree: Tree) -> None:
    calls: list[Callable[[], Any]] = [
        (tree.read / "data.txt").read_text,
        lambda: (tree.work / "new").write_text("x"),
        lambda: (tree.read / "new").write_text("x"),
        tree.canary.path.read_text,
        lambda: os.rename(tree.work / "new", tree.secret / "new"),
    ]

    def confined() -> list[int]:
        confine(agreed(fs_readable=[str(tree.read)], fs_writable=[str(tree.work)]))
        return [errno_of(call) for call in calls]

    assert in_child(confined) == [0, 0, 13, 13, 13]
    assert (tree.work / "new").read_text() == "x" and not (tree.read / "new").exists()
    assert in_child(lambda: errno_of(calls[3])) == 0


def test_system_calls_sockets_and_signals_are_refused(outsider: Outsider) -> None:
    def calls() -> list[int]:
        return [
            errno_of(lambda: socket.socket(socket.AF_INET).close()),
            errno_of(lambda: socket.socket(socket.AF_UNIX).close()),
            errno_of(lambda: os.kill(outsider.pid, 0)),
            errno_of(lambda: os.kill(os.getpid(), 0)),
        ]

    def confined() -> list[int]:
        confine(agreed())
        return calls()

    knows_signals = host_features().landlock_abi >= 6
    assert in_child(confined) == [13, 13, 1 if knows_signals else 0, 0]
    assert in_child(calls) == [0, 0, 0, 0]


def test_metadata_is_refused_everywhere(tree: Tree) -> None:
    file = tree.work / "file"
    file.touch()
    file.chmod(0o644)

    def confined() -> tuple[int, int]:
        confine(agreed(fs_writable=[str(tree.work)]))
        return errno_of(lambda: file.chmod(0o600)), errno_of(lambda: file.write_text("x"))

    assert in_child(confined) == (1, 0)
    assert file.stat().st_mode & 0o777 == 0o644 and file.read_text() == "x"


def test_what_it_starts_is_confined_too(tree: Tree) -> None:
    def confined() -> tuple[int, bytes, int]:
        confine(agreed(fs_readable=[*SYSTEM, str(tree.read)], fs_writable=["/dev/null"]))
        cat = ["cat", str(tree.read / "data.txt"), str(tree.canary.path)]
        done = subprocess.run(cat, capture_output=True, check=False)
        return done.returncode, done.stdout, len(done.stderr)

    code, output, complaint = in_child(confined)
    assert (code, output.decode()) == (1, tree.readable) and complaint


def test_open_files_stay_usable(tree: Tree) -> None:
    def confined() -> str:
        with open(tree.canary.path) as file:
            confine(agreed())
            return file.read().strip()

    assert in_child(confined) == tree.canary.secret


def test_a_second_one_narrows(tree: Tree) -> None:
    def confined() -> list[int]:
        confine(agreed(fs_readable=[str(tree.root)]))
        first = errno_of(tree.canary.path.read_text)
        confine(agreed(fs_readable=[str(tree.read)]))
        return [first, errno_of(tree.canary.path.read_text), errno_of((tree.read / "data.txt").read_text)]

    assert in_child(confined) == [0, 13, 0]


def refused(policy: Policy) -> tuple[str, str, str, int]:
    """The message, step and remedy that confine() refuses with in a child, and how many entries / has then."""

    def confined() -> tuple[str, str, str, int]:
        with pytest.raises(ConfinementError) as caught:
            confine(policy)
        return str(caught.value), caught.value.step, caught.value.remedy, len(os.listdir("/"))

    found: tuple[str, str, str, int] = in_child(confined)
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"cwd": "/"}, {"env": {"A": "1"}}, {"timeout": 3}, {"grace": 1}, {"max_cpu": 10}, {"private_tmp": True},
        {"clean_env": False}, {"no_huge_pages": True}, {"no_randomize_memory": True}, {"max_open_files": 9},
        {"cpu_cores": "0"}, {"no_coredump": False},
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_a_field_of_a_new_process_is_refused_by_name(fields: dict[str, Any]) -> None:
    name, step, remedy, entries = refused(Policy(fs_readable=["/usr"], **fields))
    assert next(iter(fields)) in name and step == "confine" and remedy
    assert entries  # nothing has happened


def test_all_of_them_are_named_at_once() -> None:
    assert "cwd, timeout, private_tmp" in refused(Policy(cwd="/", timeout=1, private_tmp=True))[0]


def test_what_cannot_be_enforced_changes_nothing(tree: Tree) -> None:
    def confined() -> int:
        for policy in (agreed(max_memory="1G"), agreed(fs_readable=["/no/such"])):
            with pytest.raises(PolicyError):
                confine(policy)
        return errno_of(tree.canary.path.read_text)

    assert in_child(confined) == 0


@pytest.mark.needs("landlock", level=6)
def test_an_old_landlock_is_refused_by_name_and_changes_nothing(tree: Tree) -> None:
    def confined() -> tuple[tuple[str, ...], int]:
        with override(features_of_abi(2)), pytest.raises(LayerMissingError) as caught:
            confine(Policy())
        return caught.value.protections, errno_of(tree.canary.path.read_text)

    assert in_child(confined) == (("fs_ioctl_dev", "scope_signal"), 0)


def test_a_socket_that_is_open_already_reaches_nobody_new_under_an_old_landlock() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def connect() -> int:
            with socket.socket() as given:
                return errno_of(lambda: given.connect(server.getsockname()))

        def confined() -> int:
            with socket.socket() as given, override(features_of_abi(2)):
                confine(agreed())
                return errno_of(lambda: given.connect(server.getsockname()))

        assert in_child(connect) == 0
        assert in_child(confined) == 13


def test_without_landlock_the_filter_holds_all_the_same() -> None:
    given_up = ("fs_access", "fs_refer", "fs_truncate", "fs_ioctl_dev", "scope_signal", "scope_abstract")

    def confined() -> tuple[dict[str, str], int]:
        with override(HostFeatures()):
            rows = confine(Policy(allow_degraded=given_up))
        return {row.name: row.state for row in rows}, errno_of(lambda: socket.socket(socket.AF_INET).close())

    states, refused = in_child(confined)
    assert (states["fs_access"], states["syscalls"], refused) == ("degraded", "active", 13)


def test_it_tells_what_it_enforces() -> None:
    rows = in_child(lambda: [(row.name, row.state) for row in confine(agreed())])
    assert ("fs_access", "active") in rows and ("syscalls", "active") in rows
    assert ("scope_signal", "active" if host_features().landlock_abi >= 6 else "degraded") in rows
