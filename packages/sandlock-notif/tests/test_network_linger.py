"""SO_LINGER: the last copy of a connected socket is the supervisor's, and closing it must not wait."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from netlab import run, tables_of

from sandlock_policy import Policy
from sandlock_sys.sockets import Socket

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.usefixtures("leaks")]

SECONDS = 2
# A process waits in sendmsg while its other thread closes the socket: when it is killed, the supervisor has the last.
ATTACK = """
import signal
def linger(on, seconds): return struct.pack("ii", on, seconds)
one = socket.socket(); one.connect(PEER)
one.setblocking(False)
try:
    while True: one.send(b"x" * 65536)
except BlockingIOError: pass
one.setblocking(True)
one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger(1, SECONDS))
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    def close():
        time.sleep(0.3); os.close(one.fileno()); os.write(w, b"x")
    threading.Thread(target=close).start()
    one.sendmsg([bytes(1 << 20)])
os.close(one.detach()); os.read(r, 1)
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
time.sleep(0.6)  # a call that waits is looked at four times a second
print("done")
"""


def test_not_12_a_close_that_lingers_never_stops_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[float] = []
    real = Socket.close

    def timed(self: Socket) -> None:
        begin = time.monotonic()
        real(self)
        took.append(time.monotonic() - begin)

    monkeypatch.setattr(Socket, "close", timed)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = listener.getsockname()
        code = ATTACK.replace("PEER", repr(peer)).replace("SECONDS", str(SECONDS))
        allowed = [f"tcp://127.0.0.1:{peer[1]}", "udp://127.0.0.1:9"]  # with datagrams sendmsg is served
        assert run(code, net_allow=allowed).output == b"done\n"
        assert len(took) >= 3
        assert max(took) < SECONDS / 2
        # Bare, the same close waits.
        with socket.create_connection(peer) as one:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    one.send(bytes(65536))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, SECONDS))
            one.setblocking(True)
            begin = time.monotonic()
        assert time.monotonic() - begin >= SECONDS / 2


def test_lingering_is_accepted_and_a_connection_can_still_be_ended_at_once() -> None:
    code = """
import ctypes
def setsockopt(s, at, size):
    if ctypes.CDLL(None, use_errno=True).setsockopt(s.fileno(), 1, 13, at, size):
        raise OSError(ctypes.get_errno(), "")
with socket.socket() as s:
    for value in ((1, 0), (1, 5), (0, 7)):
        tell(lambda: s.setsockopt(1, 13, struct.pack("ii", *value)))
        tell(lambda: struct.unpack("ii", s.getsockopt(1, 13, 8)))
    tell(lambda: setsockopt(s, struct.pack("i", 1), 4)); tell(lambda: setsockopt(s, None, 8))
    one = socket.socketpair()[0]
tell(lambda: one.setsockopt(1, 13, struct.pack("ii", 1, 5)))
with open("/dev/null") as file: tell(lambda: setsockopt(file, struct.pack("ii", 1, 5), 8))
"""
    [table] = tables_of(Policy(net_allow=["127.0.0.1"]))
    outcome = run(code, Policy(net_allow=["127.0.0.1"]), tables=(table,))
    assert outcome.output.decode().split("\n")[:-1] == [
        "None", "(1, 0)", "None", "(0, 0)", "None", "(0, 0)", "EINVAL", "EFAULT", "None", "ENOTSOCK",
    ]  # fmt: skip
