"""Network namespaces that serve again: one sandbox at a time, and only what is as empty as a new one."""

from __future__ import annotations

import array
import os
import signal
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import host, launched, output_of

from sandlock_sys import kept_network

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.usefixtures("leaks"), pytest.mark.needs("mount_namespace")]

ID_MAP = (os.getuid(), os.getgid()) if os.geteuid() != 0 else None
OWN: dict[str, Any] = {
    "scoped": False, "pid_namespace": True, "network_namespace": True, "keeps_network": True, "id_map": ID_MAP,
}  # fmt: skip
SENDER = """
import array, socket
ours, theirs = socket.socketpair()
ours.bind(b"\\0left-behind")
with socket.socket(fileno=FD) as out:
    out.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno()]))])
    out.recv(1)
"""
SEEN = "import os; print(os.readlink('/proc/self/ns/net'), 'left-behind' in open('/proc/net/unix').read())"


@pytest.fixture(autouse=True)
def _none_kept() -> Iterator[None]:
    kept_network._kept.clear()
    yield
    kept_network._kept.clear()


def network_of(**fields: Any) -> str:
    """The network namespace of one launch, whose program lives until it is kept hold of."""
    with launched(["sleep", "60"], **{**OWN, **fields}) as spawned:
        name = os.readlink(f"/proc/{spawned.pid}/ns/net")
        spawned.guard.kill()
        assert spawned.guard.report() is not None
    return name


def test_what_was_given_back_serves_again_and_is_never_the_hosts() -> None:
    first = network_of()
    assert [network_of() for _ in range(3)] == [first] * 3
    assert first != os.readlink("/proc/self/ns/net")
    assert first != network_of(keeps_network=False), "control: a launch of its own"
    assert network_of() == first, "which took nothing from those that are kept"


def test_two_at_once_never_share_one_and_few_are_kept() -> None:
    network_of()
    with ExitStack() as stack:
        running = [stack.enter_context(launched(["sleep", "60"], **OWN)) for _ in range(4)]
        shown = [os.readlink(f"/proc/{each.pid}/ns/net") for each in running]
        for each in running:
            each.guard.kill()
            assert each.guard.report() is not None
    assert len(set(shown)) == 4
    assert len(kept_network._kept) == 2


def test_a_socket_that_got_out_is_met_by_nobody() -> None:
    """Its name would be in the next one's /proc/net/unix: the namespace is not used again."""
    first = network_of()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        code = SENDER.replace("FD", str(theirs.fileno()))
        with launched([sys.executable, "-c", code], keep=[theirs.fileno()], **OWN) as spawned:
            held = array.array("i", ours.recvmsg(1, 64)[1][0][2])
            ours.send(b"x")
            report = spawned.guard.report()
            assert report is not None
            assert report.status == 0
        try:
            assert len(kept_network._kept) == 1, "control: nobody outside looks into it"
            name, seen = output_of([sys.executable, "-c", SEEN], **OWN).decode().split()
        finally:
            os.close(held[0])
    assert name != first
    assert seen == "False"


def test_a_namespace_whose_guard_was_killed_is_not_kept() -> None:
    with launched(["sleep", "60"], **OWN) as spawned:
        os.kill(spawned.guard.pid, signal.SIGKILL)
        assert spawned.guard.report() is None
    assert not kept_network._kept


def test_numbers_that_became_another_files_are_left_alone() -> None:
    first = network_of()
    (kept,) = kept_network._kept
    number = kept.net
    os.close(number)
    reader, writer = os.pipe()
    os.dup2(reader, number)
    try:
        assert network_of() != first
        del kept
        assert os.fstat(number).st_ino == os.fstat(reader).st_ino
    finally:
        for fd in {reader, writer, number}:
            os.close(fd)


def test_a_forked_process_makes_its_own() -> None:
    code = f"""
import os
def name():
    with launched(["sleep", "60"], **{OWN!r}) as spawned:
        name = os.readlink(f"/proc/{{spawned.pid}}/ns/net")
        spawned.guard.kill()
        assert spawned.guard.report() is not None
    return name
mine = name()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, name().encode())
    os._exit(0)
os.wait()
print(mine == name(), os.read(reader, 99).decode() != mine)
"""
    with host(code) as process:
        out, _ = process.communicate(timeout=60)
    assert out.split() == ["True", "True"]


@pytest.mark.skipif(os.geteuid() != 0, reason="what an ordinary user makes, the same user may enter")
def test_what_may_not_be_entered_is_replaced() -> None:
    first = network_of()
    (kept,) = kept_network._kept
    kept.ids = (0, 0)  # a user namespace of one's own gives no right to the one that root's launch made
    name = network_of(id_map=kept.ids)
    assert name != first
    assert network_of(id_map=kept.ids) == name, "control: its own serves again"
