"""Datagrams go where the policy says, one verdict each; what is sent is the copy that was judged."""

from __future__ import annotations

import socket

import pytest
from netlab import denied, free_port, run, serve

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

UDP = socket.SOCK_DGRAM
MMSG = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
class Vec(ctypes.Structure): _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]
class Msg(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("namelen", ctypes.c_uint), ("iov", ctypes.POINTER(Vec)),
                ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                ("flags", ctypes.c_int)]
class MMsg(ctypes.Structure): _fields_ = [("hdr", Msg), ("len", ctypes.c_uint)]
def name(port): return struct.pack("=H", 2) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))
def batch(*entries):
    messages = (MMsg * len(entries))()
    for message, (port, data) in zip(messages, entries):
        message.hdr.name, message.hdr.namelen = name(port), 16
        message.hdr.iov, message.hdr.iovlen = ctypes.pointer(Vec(data, len(data))), 1
    return messages
def sendmmsg(s, messages):
    sent = libc.sendmmsg(s.fileno(), messages, len(messages), 0)
    return sent if sent >= 0 else errno.errorcode[ctypes.get_errno()], [m.len for m in messages]
"""


@pytest.mark.parametrize(
    "call",
    [
        "s.sendto(b'one', ('127.0.0.1', port))",
        "s.sendmsg([b'o', b'', b'ne'], [], 0, ('127.0.0.1', port))",
        "(s.connect(('127.0.0.1', port)), s.send(b'one'))[1]",
        "(s.connect(('127.0.0.1', port)), s.sendmsg([b'one']))[1]",
    ],
    ids=["sendto", "sendmsg", "connect", "connected-sendmsg"],
)
def test_ll_12_each_way_to_send_a_datagram_is_judged(call: str) -> None:
    with serve(kind=UDP) as allowed, serve(kind=UDP) as other:
        code = f"""
s = socket.socket(type=socket.SOCK_DGRAM)
for port in ({allowed.port}, {other.port}): tell(lambda: {call})
"""
        outcome = run(code, net_allow=[f"udp://127.0.0.1:{allowed.port}"])
        refusal = b"ECONNREFUSED" if "connect" in call else b"EPERM"
        assert outcome.output == b"3\n" + refusal + b"\n"
        assert (allowed.wait_for(1), other.seen) == ([b"one"], [])
    assert [flag for _, flag in denied(outcome)] == [f"--net-allow udp://127.0.0.1:{other.port}"]


def test_net_05_each_message_of_a_batch_is_judged_and_the_count_is_the_kernels() -> None:
    with serve(kind=UDP) as allowed, serve(kind=UDP) as other:
        a, o = allowed.port, other.port
        code = (
            MMSG
            + f"""
s = socket.socket(type=socket.SOCK_DGRAM)
print(sendmmsg(s, batch(({a}, b"1"), ({a}, b"22"), ({o}, b"x"), ({a}, b"y"))))
print(sendmmsg(s, batch(({o}, b"x"), ({a}, b"y"))))
print(sendmmsg(s, batch(({a}, b"333"))))
print(sendmmsg(s, batch()))
"""
        )
        outcome = run(code, net_allow=[f"udp://127.0.0.1:{a}"])
        assert outcome.output == b"(2, [1, 2, 0, 0])\n('EPERM', [0, 0])\n(1, [3])\n(0, [])\n"
        assert (allowed.wait_for(3), other.seen) == ([b"1", b"22", b"333"], [])


def test_a_mapped_destination_and_the_unspecified_family_are_what_the_kernel_takes_them_for() -> None:
    with serve(kind=UDP) as allowed, serve(kind=UDP) as other:
        code = (
            MMSG
            + f"""
four, six = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
def raw(s, address):
    sent = libc.sendto(s.fileno(), b"raw", 3, 0, address, len(address))
    return sent if sent >= 0 else errno.errorcode[ctypes.get_errno()]
for port in ({allowed.port}, {other.port}):
    tell(lambda: six.sendto(b"map", ("::ffff:127.0.0.1", port)))
    print(raw(four, bytes(2) + name(port)[2:]), raw(six, name(port)), raw(six, bytes(2) + name(port)[2:]))
print(raw(four, name({allowed.port})[:12]), raw(six, struct.pack("=H", 1) + bytes(26)))
"""
        )
        outcome = run(code, net_allow=[f"udp://127.0.0.1:{allowed.port}"])
        assert outcome.output.splitlines() == [
            b"3", b"3 3 EDESTADDRREQ", b"EPERM", b"EPERM EPERM EDESTADDRREQ", b"EINVAL EINVAL",
        ]  # fmt: skip
        assert (allowed.wait_for(3), other.seen) == ([b"map", b"raw", b"raw"], [])


def test_net_10_control_messages_that_choose_another_way_are_refused() -> None:
    with serve(kind=UDP) as server:
        code = f"""
s = socket.socket(type=socket.SOCK_DGRAM)
there = ("127.0.0.1", {server.port})
tell(lambda: s.sendmsg([b"ttl"], [(0, 2, struct.pack("i", 7))], 0, there))
tell(lambda: s.sendmsg([b"route"], [(0, 7, bytes(8))], 0, there))
tell(lambda: s.sendmsg([b"mark"], [(1, 36, struct.pack("i", 7))], 0, there))
"""
        assert run(code, net_allow=["udp://127.0.0.1"]).output == b"3\nEPERM\nEPERM\n"
        assert server.wait_for(1) == [b"ttl"]


def test_datagrams_of_every_size_arrive_and_larger_ones_are_refused() -> None:
    with serve(kind=UDP) as server:
        code = f"""
s = socket.socket(type=socket.SOCK_DGRAM)
there = ("127.0.0.1", {server.port})
for size in (0, 1, 1472, 65507, 65508, 70000, 1 << 22): tell(lambda: s.sendto(bytes(size), there))
tell(lambda: s.sendmsg([bytes(40000), bytes(40000)], [], 0, there))
"""
        lines = run(code, net_allow=["udp://127.0.0.1"]).output.split()
        assert lines == [b"0", b"1", b"1472", b"65507", *[b"EMSGSIZE"] * 4]
        assert [len(data) for data in server.wait_for(4)] == [0, 1, 1472, 65507]


def test_not_09_not_22_wild_pointers_and_counts_are_errors_and_the_next_send_works() -> None:
    with serve(kind=UDP) as server:
        code = (
            MMSG
            + f"""
s = socket.socket(type=socket.SOCK_DGRAM)
libc.syscall.restype = ctypes.c_long
def call(number, *args):
    got = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a & 0xffffffffffffffff) for a in args])
    return errno.errorcode[ctypes.get_errno()] if got < 0 else got
numbers = {{"x86_64": (44, 46, 307, 42, 49), "aarch64": (206, 211, 269, 203, 200)}}[os.uname().machine]
sendto, sendmsg, sendmmsg_, connect, bind = numbers
fd = s.fileno()
data = ctypes.create_string_buffer(64)
here = ctypes.addressof(data)
kept = []
def keep(data):
    kept.append(ctypes.create_string_buffer(data)); return ctypes.addressof(kept[-1])
for bad in (1, -1, 0xffff800000000000, 0x7fffffffffff):
    print(call(sendto, fd, bad, 10, 0, here, 16), call(sendto, fd, here, 10, 0, bad, 16), call(sendmsg, fd, bad, 0),
          call(sendmmsg_, fd, bad, 1, 0), call(connect, fd, bad, 16), call(bind, fd, bad, 16))
header = struct.pack("=QI4xQQQQI4x", here, 16, here, 1025, 0, 0, 0)
print(call(sendmsg, fd, keep(header), 0))
huge = struct.pack("=QQ", here, 1 << 62); vector = ctypes.create_string_buffer(huge)
header = struct.pack("=QI4xQQQQI4x", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0)
print(call(sendmsg, fd, keep(header), 0))
header = struct.pack("=QI4xQQQQI4x", 0, 0, 0, 0, here, 1 << 31, 0)
print(call(sendmsg, fd, keep(header), 0))
print(call(connect, fd, here, 129), call(connect, fd, here, -1), call(connect, fd, here, 1), end=" ")
print(call(sendmsg, 999, here, 0))
tell(lambda: s.sendto(b"alive", ("127.0.0.1", {server.port})))
"""
        )
        outcome = run(code, net_allow=["udp://127.0.0.1"])
        lines = outcome.output.decode().splitlines()
        assert lines[:4] == [" ".join(["EFAULT"] * 6)] * 4
        assert lines[4:] == ["EMSGSIZE", "EMSGSIZE", "ENOBUFS", "EINVAL EINVAL EINVAL EBADF", "5"]
        assert server.wait_for(1) == [b"alive"]
    assert [event.kind for event in outcome.events if event.kind == "fault"] == []


def test_a_connected_stream_sends_by_sendmsg_as_much_as_it_is_given() -> None:
    code = f"""
server = socket.create_server(("127.0.0.1", {(port := free_port())}))
got = []
def read():
    c, _ = server.accept()
    while True:
        part = c.recv(1 << 16)
        if not part: break
        got.append(len(part)); time.sleep(0.0005)
reader = threading.Thread(target=read); reader.start()
c = socket.create_connection(("127.0.0.1", {port}))
left = 8 << 20
while left: left -= c.sendmsg([bytes(min(left, 1 << 20)), b""])
c.setblocking(False)
tell(lambda: c.sendmsg([bytes(10)]) and "some")
c.close(); reader.join(); print(sum(got) - 10 == 8 << 20)
"""
    assert run(code, net_allow_bind=[port], net_allow=["udp://127.0.0.1"]).output == b"some\nTrue\n"


def test_a_broken_stream_gives_epipe_and_the_signal() -> None:
    code = f"""
import signal
signal.signal(signal.SIGPIPE, lambda *_: print("SIGPIPE", flush=True))
server = socket.create_server(("127.0.0.1", {(port := free_port())}))
c = socket.create_connection(("127.0.0.1", {port}))
server.accept()[0].close(); c.shutdown(socket.SHUT_WR)
tell(lambda: c.sendmsg([b"x"])); tell(lambda: c.sendmsg([b"x"], [], socket.MSG_NOSIGNAL))
"""
    assert run(code, net_allow_bind=[port], net_allow=["udp://127.0.0.1"]).output == b"SIGPIPE\nEPIPE\nEPIPE\n"


def test_udp_between_two_processes_inside_needs_no_rule_in_either_direction() -> None:
    port = free_port(UDP)
    code = f"""
server = socket.socket(type=socket.SOCK_DGRAM); server.bind(("127.0.0.1", {port}))
def answer():
    data, peer = server.recvfrom(100); server.sendto(data.upper(), peer)
threading.Thread(target=answer, daemon=True).start()
tell(udp("127.0.0.1", {port}))
"""
    assert run(code, net_allow_bind=[port]).output == b"HELLO\n"


@pytest.mark.parametrize("rule", ["tcp://127.0.0.1", "127.0.0.1"])
def test_a_connected_client_is_not_asked_about_its_data(rule: str) -> None:
    code = f"""
server = socket.create_server(("127.0.0.1", {(port := free_port())}))
def echo():
    c, _ = server.accept()
    while (data := c.recv(100)): c.sendall(data)
threading.Thread(target=echo, daemon=True).start()
c = socket.create_connection(("127.0.0.1", {port}))
for _ in range(2000): c.sendall(b"x"); c.recv(10); os.write(c.fileno(), b"y"); os.read(c.fileno(), 10)
print("done")
"""
    outcome = run(code, net_allow=[rule], net_allow_bind=[port])
    assert outcome.output == b"done\n"
    assert outcome.supervisor is not None
    assert 3 <= outcome.supervisor.served < 20  # bind, listen, connect, and a name or two: not one of 16,000 others


def test_net_05_a_long_sendmmsg_is_answered_by_how_many_went() -> None:
    """So that 1,024 messages of 1,024 parts hold nobody else up; who wants the rest sent calls again."""
    code = """
import ctypes
libc = ctypes.CDLL(None)
s = socket.socket(type=socket.SOCK_DGRAM)
name = ctypes.create_string_buffer(struct.pack("=H", 2) + struct.pack("!H4s8x", PORT, bytes([127, 0, 0, 1])), 16)
data = ctypes.create_string_buffer(b"x", 1)
def send(messages, parts):
    vectors = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 1) * parts)
    one = struct.pack("=QI4xQQQQI4xI4x", ctypes.addressof(name), 16, ctypes.addressof(vectors), parts, 0, 0, 0, 0)
    block = ctypes.create_string_buffer(one * messages)
    return libc.sendmmsg(s.fileno(), block, messages, 0)
print(send(3, 1), send(1024, 1), send(1024, 100), send(1024, 1024))
"""
    with serve(kind=socket.SOCK_DGRAM) as server:
        output = run(code.replace("PORT", str(server.port)), net_allow=[f"udp://127.0.0.1:{server.port}"]).output
        assert output == b"3 16 2 1\n"
        assert [len(one) for one in server.wait_for(22)] == [1] * 19 + [100] * 2 + [1024]
