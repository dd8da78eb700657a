"""What a policy callback takes away stays away, from a process and from what descends from it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from netlab import PRELUDE, denied, run, serve, tables_of
from supervision import PYTHON, Table, supervise

from sandlock_notif import Request, Trap, Value
from sandlock_notif.handlers.network import NetworkTable, network_filter_rules
from sandlock_policy import Policy

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]


def controlled(code: str, policy: Policy, steps: list[Callable[[NetworkTable, Request], None]]) -> list[str]:
    """Run code in which each os.getppid() takes the next step."""
    [table] = tables_of(policy)
    left = list(steps)

    def step(request: Request) -> Value:
        left.pop(0)(table, request)
        return Value(1)

    rules = network_filter_rules(policy)
    steps_table = Table((Trap("getppid", step, "a test asks"),))
    outcome = supervise([PYTHON, "-I", "-S", "-c", PRELUDE + code], steps_table, table, rules=rules)
    return outcome.output.decode().split()


def call(name: str, *arguments: object) -> Callable[[NetworkTable, Request], None]:
    return lambda table, _: table.controls()[name](*arguments)


def test_the_network_is_narrowed_and_given_back_within_the_rules() -> None:
    with serve("127.0.0.2") as two, serve("127.0.0.3") as three, serve("127.0.0.4", socket.SOCK_DGRAM) as four:
        policy = Policy(net_allow=["127.0.0.2", "127.0.0.3", "127.0.0.4"])
        code = f"""
def all_of_them():
    tell(tcp("127.0.0.2", {two.port})); tell(tcp("127.0.0.3", {three.port})); tell(udp("127.0.0.4", {four.port}))
all_of_them()
for _ in range(4): os.getppid(); all_of_them()
tell(tcp("127.0.0.1", {two.port}))
"""
        steps = [
            call("restrict_network", ("127.0.0.2/32",)), call("restrict_network", ()),
            call("grant_network", ("127.0.0.3/32", "127.0.0.1/32")), call("grant_network", ("127.0.0.0/8",)),
        ]  # fmt: skip
        refused, send = "ECONNREFUSED", "EPERM"
        assert controlled(code, policy, steps) == [
            "HELLO", "HELLO", "HELLO", "HELLO", refused, send, refused, refused, send, refused, "HELLO", send,
            "HELLO", "HELLO", "HELLO", refused,
        ]  # fmt: skip


def test_one_process_is_narrowed_with_its_children_and_its_orphans() -> None:
    with serve("127.0.0.2") as server:
        code = f"""
work = tcp("127.0.0.2", {server.port})
r, w = os.pipe()
if os.fork() == 0:
    os.getppid(); tell(work)
    if os.fork() == 0:
        tell(work)
        if os.fork() == 0:
            time.sleep(0.3); tell(work); os.write(w, b"x"); os._exit(0)
        os._exit(0)
    os.wait(); os._exit(0)
os.wait(); os.read(r, 1); tell(work)
"""
        narrow: Callable[[NetworkTable, Request], None] = lambda table, request: table.controls()[  # noqa: E731
            "restrict_pid_network"
        ](request.tid, ("192.0.2.1/32",))
        output = controlled(code, Policy(net_allow=["tcp://127.0.0.2"]), [narrow])
        assert output == ["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED", "HELLO"]


def test_a_process_that_adopts_orphans_does_not_free_them() -> None:
    """The orphan's parent is then the one that adopts, which is older and not narrowed itself."""
    with serve("127.0.0.2") as server:
        code = f"""
import ctypes
work = tcp("127.0.0.2", {server.port})
r, w = os.pipe(); ready, go = os.pipe()
if os.fork() == 0:
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
    time.sleep(0.05)  # a start is told in hundredths of a second
    if os.fork() == 0:
        os.getppid(); tell(work)
        if os.fork() == 0:
            os.read(ready, 1); tell(work); os.write(w, b"x"); os._exit(0)
        os._exit(0)
    os.wait(); os.write(go, b"x"); os.read(r, 1); tell(work); os._exit(0)
os.wait(); tell(work)
"""
        narrow: Callable[[NetworkTable, Request], None] = lambda table, request: table.controls()[  # noqa: E731
            "restrict_pid_network"
        ](request.tid, ("192.0.2.1/32",))
        output = controlled(code, Policy(net_allow=["tcp://127.0.0.2"]), [narrow])
        assert output == ["ECONNREFUSED", "ECONNREFUSED", "HELLO", "HELLO"]


def test_a_process_outside_cannot_be_narrowed() -> None:
    [table] = tables_of(Policy(net_allow=["tcp://127.0.0.2"]))
    with pytest.raises(ProcessLookupError):
        table.controls()["restrict_pid_network"](1, ())


def test_the_event_says_who_took_it_away() -> None:
    [table] = tables_of(Policy(net_allow=["tcp://127.0.0.2"]))
    table.controls()["restrict_network"](())
    outcome = run("tell(tcp('127.0.0.2', 1))", Policy(net_allow=["tcp://127.0.0.2"]), tables=(table,))
    assert outcome.output == b"ECONNREFUSED\n"
    assert denied(outcome) == [("connect", None)]
    assert outcome.events[0].reason.endswith("was taken away by the policy callback")
