"""Programs that change what they pointed to while it is judged: each attack wins against a supervisor that looks and
lets the kernel run the call, and never against ours."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from netlab import PRELUDE, run, serve, tables_of
from supervision import PYTHON, Outcome, Table, supervise

from sandlock_arch import native
from sandlock_notif import CONTINUE, Action, Errno, Request, Trap, memory
from sandlock_policy import Policy
from sandlock_policy.seccomp.rules import not_one_of
from sandlock_sys import sockets

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

TRIES = 10_000  # by root, and as many by an ordinary user: 20,000 of each
UDP = socket.SOCK_DGRAM

# Another process, which shares the memory, writes the good and the bad address in turns: no lock of ours slows it.
FLIP = """
import ctypes, mmap, signal
libc = ctypes.CDLL(None, use_errno=True)
shared = mmap.mmap(-1, 4096)
base = ctypes.addressof(ctypes.c_char.from_buffer(shared))
def name(port): return struct.pack("=H", 2) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))
good, bad = name(GOOD), name(BAD)
shared[0:16] = good; shared[64:80] = good; shared[128:144] = bad
shared[192:193] = b"g"
def flip(at, one, other):
    end = at + len(one)
    while True:
        shared[at:end] = one
        shared[at:end] = other
def start(at, one, other):
    pid = os.fork()
    if pid == 0: flip(at, one, other)
    return pid
def pointer(at): return struct.pack("=Q", base + at)
s = socket.socket(type=socket.SOCK_DGRAM)
def vector(at, data_at, length): shared[at:at + 16] = struct.pack("=QQ", base + data_at, length)
def header(at, name_at, vector_at):
    shared[at:at + 56] = struct.pack("=QI4xQQQQI4x", base + name_at, 16, base + vector_at, 1, 0, 0, 0)
def stream():
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        libc.connect(one.fileno(), ctypes.c_void_p(base), 16)
ATTACKS = {
    "stream": stream,
    "sendto": lambda: libc.sendto(s.fileno(), b"x", 1, 0, ctypes.c_void_p(base), 16),
    "connect": lambda: libc.connect(s.fileno(), ctypes.c_void_p(base), 16) or libc.send(s.fileno(), b"x", 1, 0),
    "sendmsg": lambda: libc.sendmsg(s.fileno(), ctypes.c_void_p(base + 256), 0),
    "sendmmsg": lambda: libc.sendmmsg(s.fileno(), ctypes.c_void_p(base + 512), 2, 0),
}
def attack(kind, flipped, tries, until=lambda: False):
    if kind in ("sendmsg", "sendmmsg"):
        vector(400, 192, 1); vector(416, 192, 1)
        header(256, 0, 400); header(512, 64, 400); header(576, 0, 416)
    if flipped == "address": pid = start(0, good, bad)
    elif flipped == "pointer": pid = start(576 if kind == "sendmmsg" else 256, pointer(64), pointer(128))
    elif flipped == "vectors": pid = start(256 + 16, pointer(400), pointer(440))
    done = 0
    while done < tries and not until():
        ATTACKS[kind](); done += 1
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    print(done)
"""


def naive() -> Table:
    """What not to do: judge the address, then let the kernel read it again."""

    def handle(request: Request) -> Action:
        at = request.args[1] if request.nr == connect else request.args[4]
        (port,) = struct.unpack("!H", memory.read(request, at, 16)[2:4])
        return CONTINUE if port == allowed_port[0] else Errno(1)

    connect = native().syscalls["connect"]
    named = (not_one_of(4, 0, wide=True),)
    return Table((Trap("connect", handle, "naive"), Trap("sendto", handle, "naive", named)))


allowed_port = [0]


def attacked(kind: str, flipped: str, good: int, bad: int) -> Outcome:
    code = FLIP.replace("GOOD", str(good)).replace("BAD", str(bad)) + f"attack({kind!r}, {flipped!r}, {TRIES})"
    return run(code, net_allow=[f"127.0.0.1:{good}"], timeout_s=120)


CASES = [
    ("sendto", "address"), ("connect", "address"), ("sendmsg", "address"), ("sendmsg", "pointer"),
    ("sendmsg", "vectors"), ("sendmmsg", "address"), ("sendmmsg", "pointer"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "flipped"), CASES, ids=["-".join(case) for case in CASES])
def test_not_03_changing_what_is_pointed_to_never_reaches_the_refused_port(kind: str, flipped: str) -> None:
    with serve(kind=UDP) as allowed, serve(kind=UDP) as other:
        outcome = attacked(kind, flipped, allowed.port, other.port)
        assert outcome.output == f"{TRIES}\n".encode()
        assert allowed.seen, "the attack never sent anything"
        assert other.seen == []
    assert [event.reason for event in outcome.events if event.kind == "fault"] == []


def test_not_03_nor_does_it_where_connections_are_made_without_being_asked_about() -> None:
    with serve() as allowed, serve() as other:
        outcome = attacked("stream", "address", allowed.port, other.port)
        assert outcome.output == f"{TRIES}\n".encode()
        assert (allowed.connections > 0, other.connections) == (True, 0)
    assert outcome.supervisor is not None
    assert outcome.supervisor.shortly > TRIES / 10, "a good part was served in C"


@pytest.mark.parametrize("kind", ["sendto", "connect"])
def test_not_01_the_same_attack_wins_against_look_and_continue(kind: str) -> None:
    with serve(kind=UDP) as allowed, serve(kind=UDP) as other:
        allowed_port[0] = allowed.port
        code = FLIP.replace("GOOD", str(allowed.port)).replace("BAD", str(other.port))
        for _ in range(10):
            supervise([PYTHON, "-I", "-S", "-c", f"{PRELUDE}{code}attack({kind!r}, 'address', 4000)"], naive())
            if other.seen:
                break
        assert other.seen, "the control did not win: the attack proves nothing"


TABLE = """
import threading
good, other = socket.socket(type=KIND), socket.socket(OTHER_FAMILY, OTHER_KIND)
slot = os.dup(good.fileno())
def flip():
    while True: os.dup2(other.fileno(), slot); os.dup2(good.fileno(), slot)
threading.Thread(target=flip, daemon=True).start()
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def name(port): return struct.pack("=H", FAMILY) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))
"""


def test_not_05_not_04_changing_the_socket_behind_the_number_changes_no_verdict() -> None:
    """By one number there is an IPv4 socket or an IPv6 one, which read the same bytes differently."""
    with serve(kind=UDP) as allowed, serve(kind=UDP) as other:
        code = (
            TABLE.replace("OTHER_FAMILY", "socket.AF_INET6").replace("OTHER_KIND", "socket.SOCK_DGRAM")
            .replace("KIND", "socket.SOCK_DGRAM").replace("FAMILY", "2")
        )  # fmt: skip
        code += f"""
bad, fine = name({other.port}), name({allowed.port})
mapped = struct.pack("=H", 10) + struct.pack("!HI10s6sI", {other.port}, 0, b"", bytes([255, 255, 127, 0, 0, 1]), 0)
for _ in range({TRIES // 3}):
    for to in (bad, mapped, fine): libc.sendto(slot, b"x", 1, 0, to, len(to))
print("done"); sys.stdout.flush(); os._exit(0)
"""
        outcome = run(code, net_allow=[f"udp://127.0.0.1:{allowed.port}"], timeout_s=120)
        assert outcome.output == b"done\n"
        assert allowed.seen
        assert other.seen == []


def test_net_25_a_connection_that_is_dissolved_and_made_again_under_way_goes_nowhere_else() -> None:
    with serve(kind=UDP) as allowed, serve(kind=UDP) as other:
        code = f"""
s = socket.socket(type=socket.SOCK_DGRAM)
def again(port):
    while True:
        try: s.connect(("127.0.0.1", port))
        except OSError: pass
for port in ({allowed.port}, {other.port}): threading.Thread(target=again, args=(port,), daemon=True).start()
for _ in range({TRIES}):
    try: s.send(b"x")
    except OSError: pass
print("done"); sys.stdout.flush(); os._exit(0)
"""
        outcome = run(code, net_allow=[f"udp://127.0.0.1:{allowed.port}"], timeout_s=120)
        assert outcome.output == b"done\n"
        assert allowed.seen
        assert other.seen == []


def test_the_supervisor_keeps_no_descriptor_of_programs_that_die_in_the_middle() -> None:
    [table] = tables_of(Policy(net_allow=["127.0.0.1"]))
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        code = f"""
import signal
for _ in range(60):
    pid = os.fork()
    if pid == 0:
        work = lambda: socket.socket().connect({listener.getsockname()})
        for _ in range(20): threading.Thread(target=work, daemon=True).start()
        os._exit(0)
    time.sleep(0.002); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
print("done")
"""
        assert run(code, Policy(net_allow=["127.0.0.1"]), tables=(table,)).output == b"done\n"
    assert len(os.listdir("/proc/self/fd")) <= before


STALL = """
family, peer = FAMILY, PEER
if family == socket.AF_UNIX:
    listener = socket.socket(family); listener.bind(peer); listener.listen(0)
    fill = socket.socket(family); fill.connect(peer)
else:
    fill = [socket.socket() for _ in range(3)]
    for one in fill: one.setblocking(False); one.connect_ex(peer)
s = socket.socket(family); s.setblocking(False)
def flip():
    while True: os.set_blocking(s.fileno(), True); os.set_blocking(s.fileno(), False)
threading.Thread(target=flip, daemon=True).start()
import ctypes, signal
libc = ctypes.CDLL(None)
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
end = time.monotonic() + 3; tries = 0
raw = NAME
while time.monotonic() < end: libc.connect(s.fileno(), raw, len(raw)); tries += 1
print("tried" if tries > 3 else tries); sys.stdout.flush(); os._exit(0)
"""


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_not_14_a_flag_that_is_cleared_under_way_never_stops_the_loop(
    family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain connect(2) in the loop's thread may wait for ever; it is counted here, for sockets that have a backlog."""
    plain: list[int] = []
    real = sockets.connect

    def counted(fd: int, address: bytes) -> int:
        plain.append(fd)
        return real(fd, address)

    monkeypatch.setattr(sockets, "connect", counted)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        name = f"\0sandlock-stall-{os.getpid()}"
        raw = struct.pack("=H", family) + (
            name.encode() if family == socket.AF_UNIX else struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))
        )
        peer: object = name if family == socket.AF_UNIX else ("127.0.0.1", port)
        code = STALL.replace("FAMILY", str(int(family))).replace("PEER", repr(peer)).replace("NAME", repr(raw))
        assert run(code, net_allow=[f"127.0.0.1:{port}"]).output == b"tried\n"
        assert plain == []
        run(f"socket.socket(type=2).connect(('127.0.0.1', {port}))", net_allow=[f"udp://127.0.0.1:{port}"])
        assert plain  # the count counts
