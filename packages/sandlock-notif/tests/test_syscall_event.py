"""What a policy callback is shown is what is sent, and all of it (NOT-01, NET-05)."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from types import SimpleNamespace
from typing import cast

import pytest
from netlab import run, serve, tables_of
from supervision import Outcome, table

from sandlock_notif import Request, memory
from sandlock_notif.context import PolicyContext
from sandlock_notif.errors import Refusal
from sandlock_notif.handlers.callback import CallbackTable
from sandlock_notif.syscall_event import SyscallEvent
from sandlock_policy import Policy

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

UDP = socket.SOCK_DGRAM
POLICY = Policy(net_allow=("udp://127.0.0.1:*",))

MESSAGES = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(1024)
base = ctypes.addressof(buffer)
def name(at, port): buffer[at:at + 16] = struct.pack("=H", 2) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))
name(0, GOOD); name(32, BAD); name(64, GOOD)
buffer[96:98] = b"hi"
buffer[128:144] = struct.pack("=QQ", base + 96, 2)
def header(at, named):
    where = base + named if named is not None else 0
    buffer[at:at + 56] = struct.pack("=QI4xQQQQI4x", where, 16 if where else 0, base + 128, 1, 0, 0, 0)
s = socket.socket(type=socket.SOCK_DGRAM)
def many(one, other):
    header(256, one); header(320, other)
    sent = libc.sendmmsg(s.fileno(), ctypes.c_void_p(base + 256), 2, 0)
    print(sent if sent >= 0 else errno.errorcode[ctypes.get_errno()])
"""


def test_a_range_is_one_copy_whatever_its_length() -> None:
    buffer = ctypes.create_string_buffer(b"abcdefgh", 8)
    address = ctypes.addressof(buffer)
    request = cast("Request", SimpleNamespace(tid=os.getpid(), copies={}, waits=lambda: True))
    assert memory.read(request, address, 4) == b"abcd"
    buffer.raw = b"ABCDEFGH"
    assert memory.read(request, address, 8) == b"abcdEFGH"
    buffer.raw = b"12345678"
    assert memory.read(request, address, 2) == b"ab"
    assert memory.read(request, address, 8) == b"abcdEFGH"
    assert memory.read(request, address + 1, 2) == b"23"  # control: it is the memory that changes
    assert memory.read(request, address, 0) == b""
    with pytest.raises(Refusal):
        memory.read(request, 8, 8)


@pytest.mark.parametrize("forgets", [True, False])
def test_not_01_a_message_goes_where_the_callback_was_told(forgets: bool) -> None:
    """A thread turns the name of the message to the refused port while the callback thinks."""
    with serve(kind=UDP) as good, serve(kind=UDP) as bad:

        def judge(event: SyscallEvent, _: PolicyContext) -> bool:
            if event.syscall == "sendmsg":
                time.sleep(0.1)
            return event.port == bad.port

        code = f"""
GOOD, BAD = {good.port}, {bad.port}
{MESSAGES}
def turn():
    time.sleep(0.05); buffer[256:264] = struct.pack("=Q", base + 32)
for _ in range(5):
    header(256, 0)
    thread = threading.Thread(target=turn); thread.start()
    libc.sendmsg(s.fileno(), ctypes.c_void_p(base + 256), 0)
    thread.join()
"""

        def forget(request: Request) -> None:
            if forgets:  # the naive supervisor: whoever acts reads again
                request.copies.clear()

        tables = [CallbackTable(judge, 5.0), table("sendmsg", forget), *tables_of(POLICY)]
        outcome = run(code, POLICY, tables=tables)
        assert outcome.code == 0
        if forgets:
            assert bad.wait_for(1)
        else:
            assert good.wait_for(1)
            assert not bad.seen


def test_net_05_one_call_to_several_destinations_is_refused_under_a_callback() -> None:
    with serve(kind=UDP) as good, serve(kind=UDP) as bad:
        code = f"""
GOOD, BAD = {good.port}, {bad.port}
{MESSAGES}
many(0, 32); many(0, None)
many(0, 0); many(0, 64)
s.connect(("127.0.0.1", GOOD)); many(None, None)
"""

        def told(judge: object) -> Outcome:
            tables = [CallbackTable(judge, 5.0)] if callable(judge) else []
            return run(code, POLICY, tables=[*tables, *tables_of(POLICY)])

        free = told(None).output.split()
        assert free[0] == b"2"  # control: without a callback both arrive
        assert bad.wait_for(1)
        bad.seen.clear()
        outcome = told(lambda event, _: event.port == bad.port)
        # A resolver's two questions on a connected socket, and two messages to one place, go on.
        assert outcome.output.split() == [b"EPERM", b"EPERM", b"2", b"2", b"2"]
        assert any("several destinations" in event.reason for event in outcome.events)
        assert not bad.seen
