"""Landlock, by effect: what is granted works, what is not fails and leaves no trace."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandlock_sys import landlock, prctl
from sandlock_sys.constants.landlock import AccessFs, AccessNet, Scope
from sandlock_sys.errors import SyscallError

pytestmark = pytest.mark.needs("landlock", level=3)

READ = AccessFs.READ_FILE | AccessFs.READ_DIR
WRITE = AccessFs.WRITE_FILE | AccessFs.TRUNCATE | AccessFs.MAKE_REG | AccessFs.REMOVE_FILE
ALL = AccessFs(landlock.usable()[0])


def confine(*rules: tuple[bytes, int], handled: int = ALL) -> None:
    ruleset = landlock.create_ruleset(handled)
    landlock.add_paths(ruleset, rules)
    prctl.set_no_new_privs()
    landlock.restrict_self(ruleset)
    os.close(ruleset)


def outcome(action: Callable[[], object]) -> int:
    """The errno of an action, 0 if it succeeded."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with a canary in each."""
    folders = tmp_path / "inside", tmp_path / "outside"
    for folder in folders:
        folder.mkdir()
        (folder / "canary").write_text("alive")
    return folders


def test_reading_is_denied_outside_the_granted_folder_only(tree: tuple[Path, Path], in_child: Any) -> None:
    inside, outside = tree

    def body() -> tuple[str, int, int]:
        assert (outside / "canary").read_text() == "alive"
        confine((bytes(inside), READ))
        return (
            (inside / "canary").read_text(),
            outcome((outside / "canary").read_text),
            outcome(lambda: os.listdir(outside)),
        )

    assert in_child(body) == ("alive", errno.EACCES, errno.EACCES)


def test_writing_is_denied_outside_the_granted_folder_and_changes_nothing(
    tree: tuple[Path, Path], in_child: Any
) -> None:
    inside, outside = tree

    def body() -> list[int]:
        confine((bytes(inside), READ | WRITE), (bytes(outside), READ))
        return [
            outcome(lambda: (inside / "canary").write_text("changed")),
            outcome(lambda: (outside / "canary").write_text("changed")),
            outcome(lambda: os.truncate(outside / "canary", 0)),
            outcome((outside / "canary").unlink),
            outcome(lambda: (outside / "new").write_text("")),
        ]

    assert in_child(body) == [0, *[errno.EACCES] * 4]
    assert (inside / "canary").read_text() == "changed"
    assert sorted(path.name for path in outside.iterdir()) == ["canary"]
    assert (outside / "canary").read_text() == "alive"


def test_directory_rights_are_left_out_for_a_file(tree: tuple[Path, Path], in_child: Any) -> None:
    _, outside = tree
    (outside / "other").write_text("hidden")

    def body() -> tuple[str, int]:
        confine((bytes(outside / "canary"), ALL))
        return (outside / "canary").read_text(), outcome((outside / "other").read_text)

    assert in_child(body) == ("alive", errno.EACCES)
    # The control: the kernel itself refuses such a rule.
    ruleset = landlock.create_ruleset(ALL)
    file = os.open(outside / "canary", os.O_PATH)
    with pytest.raises(SyscallError) as caught:
        landlock.add_path_fd(ruleset, file, ALL)
    assert caught.value.errno == errno.EINVAL
    landlock.add_path_fd(ruleset, file, AccessFs.READ_FILE)
    os.close(file)
    os.close(ruleset)


def test_a_rule_that_fails_names_its_path_and_step(tmp_path: Path, open_fds: Callable[[], set[int]]) -> None:
    ruleset = landlock.create_ruleset(ALL)
    before = open_fds()
    missing = bytes(tmp_path) + b"/m\xffssing"
    with pytest.raises(SyscallError) as caught:
        landlock.add_paths(ruleset, [(bytes(tmp_path), READ), (missing, READ), (bytes(tmp_path), READ)])
    assert (caught.value.call, caught.value.errno) == ("open", errno.ENOENT)
    assert os.fsencode(caught.value.detail) == missing
    (tmp_path / "file").write_text("")
    with pytest.raises(SyscallError) as caught:
        landlock.add_paths(ruleset, [(bytes(tmp_path / "file"), AccessFs.READ_DIR)])
    assert (caught.value.call, caught.value.errno) == ("landlock_add_rule", errno.ENOMSG)
    assert open_fds() == before
    os.close(ruleset)


@pytest.mark.parametrize("first", [True, False])
def test_a_ruleset_made_in_one_call_grants_what_its_rules_say(
    tree: tuple[Path, Path], in_child: Any, *, first: bool
) -> None:
    inside, outside = tree
    rules = landlock.PathRules([(b"/usr", READ)] if first else []).with_rule(bytes(inside), READ)

    def body() -> tuple[str, int, int]:
        ruleset = landlock.make_ruleset(ALL, 0, 0, rules)
        prctl.set_no_new_privs()
        landlock.restrict_self(ruleset)
        listed = outcome(lambda: os.listdir("/usr"))
        return (inside / "canary").read_text(), outcome((outside / "canary").read_text), listed

    assert in_child(body) == ("alive", errno.EACCES, 0 if first else errno.EACCES)


def test_a_ruleset_that_cannot_be_made_is_told_and_leaves_no_fd(
    tmp_path: Path, open_fds: Callable[[], set[int]]
) -> None:
    before = open_fds()
    rules = landlock.PathRules([(bytes(tmp_path), READ)])
    with pytest.raises(SyscallError) as caught:
        landlock.make_ruleset(ALL, 0, 0, rules.with_rule(bytes(tmp_path) + b"/m\xffssing", READ))
    assert (caught.value.call, caught.value.errno) == ("open", errno.ENOENT)
    assert os.fsencode(caught.value.detail) == bytes(tmp_path) + b"/m\xffssing"
    with pytest.raises(SyscallError) as caught:
        landlock.make_ruleset(1 << 60, 0, 0, rules)
    assert (caught.value.call, caught.value.errno) == ("landlock_create_ruleset", errno.EINVAL)
    assert open_fds() == before
    with pytest.raises(ValueError, match="NUL"):
        rules.with_rule(b"/usr\0/etc", READ)


def test_an_optional_path_may_be_missing_and_grants_when_it_is_there(tree: tuple[Path, Path], in_child: Any) -> None:
    inside, outside = tree

    def body() -> tuple[str, int]:
        optional = READ | landlock.OPTIONAL
        missing, below_a_file = bytes(outside / "missing"), bytes(outside / "canary") + b"/x"
        confine((missing, optional), (bytes(inside), optional), (below_a_file, optional))
        return (inside / "canary").read_text(), outcome((outside / "canary").read_text)

    assert in_child(body) == ("alive", errno.EACCES)


@pytest.mark.parametrize("path", [b"", b"/usr\0", b"/usr\0/etc", b"\0"])
def test_a_path_that_would_shift_the_others_is_refused(path: bytes) -> None:
    ruleset = landlock.create_ruleset(ALL)
    landlock.add_paths(ruleset, [(b"/usr", READ), (b"/", READ)])
    with pytest.raises(ValueError, match="NUL"):
        landlock.add_paths(ruleset, [(b"/usr", READ), (path, READ)])
    with pytest.raises(ValueError, match="NUL"):
        landlock.add_paths(ruleset, [(path, READ)])
    os.close(ruleset)


def test_no_rules_at_all_are_fine(in_child: Any) -> None:
    def body() -> int:
        confine()
        return outcome(lambda: os.listdir("/"))

    assert in_child(body) == errno.EACCES


def test_a_fifo_without_a_peer_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ruleset = landlock.create_ruleset(ALL)
    landlock.add_paths(ruleset, [(bytes(tmp_path / "fifo"), ALL)])
    os.close(ruleset)


def test_a_ruleset_is_close_on_exec_and_unknown_rights_are_einval() -> None:
    ruleset = landlock.create_ruleset(AccessFs.EXECUTE)
    assert not os.get_inheritable(ruleset)
    os.close(ruleset)
    for masks in ((1 << 63, 0, 0), (0, 1 << 63, 0), (0, 0, 1 << 63)):
        with pytest.raises(SyscallError) as caught:
            landlock.create_ruleset(*masks)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(SyscallError) as caught:
        landlock.create_ruleset(0)
    assert caught.value.errno == errno.ENOMSG


def test_restricting_needs_no_new_privs_or_a_capability(in_child: Any) -> None:
    def body() -> tuple[int, int]:
        prctl.set_capabilities(0, 0, 0)
        ruleset = landlock.create_ruleset(AccessFs.EXECUTE)
        first = outcome(lambda: landlock.restrict_self(ruleset))
        prctl.set_no_new_privs()
        return first, outcome(lambda: landlock.restrict_self(ruleset))

    assert in_child(body) == (errno.EPERM, 0)


@pytest.mark.needs("ipv4")
@pytest.mark.needs("landlock", level=4)
def test_connecting_is_denied_to_all_ports_but_the_granted_one(in_child: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as granted, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = granted.getsockname(), other.getsockname()

        def connect(address: tuple[str, int]) -> None:
            socket.create_connection(address, timeout=5).close()

        def body() -> list[int]:
            assert [outcome(partial(connect, address)) for address in addresses] == [0, 0]
            ruleset = landlock.create_ruleset(0, AccessNet.BIND_TCP | AccessNet.CONNECT_TCP)
            landlock.add_port(ruleset, addresses[0][1], AccessNet.CONNECT_TCP)
            prctl.set_no_new_privs()
            landlock.restrict_self(ruleset)
            results = [outcome(partial(connect, address)) for address in addresses]
            return [*results, outcome(lambda: socket.create_server(("127.0.0.1", 0)).close())]

        assert in_child(body) == [0, errno.EACCES, errno.EACCES]


@pytest.mark.needs("landlock", level=6)
def test_a_scoped_process_cannot_signal_outside(in_child: Any, sleeper: int) -> None:
    def body() -> tuple[int, int, int]:
        before = outcome(lambda: os.kill(sleeper, 0))
        ruleset = landlock.create_ruleset(0, 0, Scope.SIGNAL)
        prctl.set_no_new_privs()
        landlock.restrict_self(ruleset)
        return before, outcome(lambda: os.kill(sleeper, signal.SIGKILL)), outcome(lambda: os.kill(os.getpid(), 0))

    assert in_child(body) == (0, errno.EPERM, 0)
    os.kill(sleeper, 0)


def test_usable_rights_cover_what_the_version_promises() -> None:
    fs, net, scopes = landlock.usable()
    version = landlock.abi_version()
    promised = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}.get(version, 0xFFFF)
    assert fs & promised == promised
    assert net & 3 == (3 if version >= 4 else 0)
    assert scopes & 3 == (3 if version >= 6 else 0)
    assert landlock.errata() >= 0
