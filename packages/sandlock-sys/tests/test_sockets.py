"""Sockets of another task, by copies of their fds."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from errno import EADDRINUSE, EALREADY, EBADF, ECONNREFUSED, EINVAL, EISCONN, ENOTSOCK, ESRCH

import pytest

from sandlock_sys import sockets
from sandlock_sys.errors import SyscallError

pytestmark = pytest.mark.needs("pidfd", level=2)

MSG_DONTWAIT = 0x40
MSG_NOSIGNAL = 0x4000


def inet(port: int) -> bytes:
    return socket.AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)


def test_take_copies_a_socket_and_says_what_it_is() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
        own.setblocking(False)
        with sockets.take(threading.get_native_id(), own.fileno()) as taken:
            assert (taken.domain, taken.kind, taken.protocol) == (socket.AF_INET6, socket.SOCK_DGRAM, 17)
            assert taken.nonblocking
            assert taken.fd != own.fileno()
            assert os.path.sameopenfile(taken.fd, own.fileno())
            with sockets.take(os.getpid(), own.fileno()) as again:
                assert again.cookie == taken.cookie
        assert taken.fd == -1
        taken.close()


def test_take_of_another_thread_needs_no_leader() -> None:
    found: list[sockets.Socket] = []
    with socket.socket() as own:
        ready, done = threading.Event(), threading.Event()

        def stay() -> None:
            ready.set()
            done.wait()

        worker = threading.Thread(target=stay)
        worker.start()
        ready.wait()
        assert worker.native_id is not None
        with suppress(SyscallError):  # before 6.9
            found.append(sockets.take(worker.native_id, own.fileno()))
        done.set()
        worker.join()
    for one in found:
        assert (one.domain, one.kind) == (socket.AF_INET, socket.SOCK_STREAM)
        one.close()


def test_take_refuses_what_is_no_socket_and_leaks_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    with pytest.raises(SyscallError) as caught:
        sockets.take(os.getpid(), reader)
    assert caught.value.errno == ENOTSOCK
    os.close(reader)
    os.close(writer)
    with pytest.raises(SyscallError) as caught:
        sockets.take(os.getpid(), 9999)
    assert caught.value.errno == EBADF
    assert len(os.listdir("/proc/self/fd")) == before


def test_start_connect_does_not_wait_on_a_blocking_socket_and_leaves_its_flags() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.socket() as client:
        address = inet(server.getsockname()[1])
        assert sockets.start_connect(client.fileno(), address) == 0
        assert sockets.start_connect(client.fileno(), address) == EISCONN
        assert client.getblocking()
        assert os.get_blocking(client.fileno())
        accepted, _ = server.accept()
        client.sendall(b"through")
        assert accepted.recv(100) == b"through"
        accepted.close()
        waiting = [socket.socket() for _ in range(4)]  # more than the backlog: their SYN is dropped
        results = [sockets.start_connect(one.fileno(), address) for one in waiting]
        assert EALREADY in results
        for one in waiting:
            one.close()


def test_start_connect_tells_a_refusal() -> None:
    with socket.socket() as client, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert sockets.start_connect(client.fileno(), inet(probe.getsockname()[1])) == ECONNREFUSED


def test_a_pending_connection_is_writable_when_it_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = inet(server.getsockname()[1])
        clients = [socket.socket() for _ in range(4)]
        results = [sockets.start_connect(one.fileno(), address) for one in clients]
        late = clients[results.index(EALREADY)]
        poller = select.poll()
        poller.register(late, select.POLLOUT)
        assert poller.poll(50) == []
        for _ in range(4):
            accepted, _ = server.accept()
            accepted.close()
            if poller.poll(1500):
                break
        assert sockets.start_connect(late.fileno(), address) == 0
        for one in clients:
            one.close()


def test_bind_listen_names_and_options() -> None:
    with socket.socket() as own, socket.socket() as other:
        assert sockets.bind(own.fileno(), inet(0)) == 0
        assert sockets.listen(own.fileno(), 5) == 0
        name = sockets.name_of(own.fileno())
        assert (name[:2], len(name)) == (inet(0)[:2], 16)
        assert sockets.bind(other.fileno(), name) == EADDRINUSE
        assert sockets.connect(other.fileno(), name) == 0
        assert sockets.peer_of(other.fileno()) == name
        assert sockets.send_timeout(other.fileno()) is None
        sockets.set_option(
            other.fileno(), socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(8) + (250000).to_bytes(8, "little")
        )
        assert sockets.send_timeout(other.fileno()) == pytest.approx(0.25, abs=0.01)
        assert sockets.get_option(other.fileno(), socket.SOL_SOCKET, socket.SO_TYPE) == (1).to_bytes(4, "little")


def test_send_takes_a_name_and_control_messages() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reader, writer = os.pipe()
    control = (20).to_bytes(8, "little") + (1).to_bytes(4, "little") * 2 + reader.to_bytes(4, "little") + bytes(4)
    with left, right:
        assert sockets.send(left.fileno(), b"with an fd", MSG_DONTWAIT | MSG_NOSIGNAL, control=control) == 10
        data, fds, _, _ = socket.recv_fds(right, 100, 4)
        os.write(writer, b"same pipe")
        assert (data, os.read(fds[0], 100)) == (b"with an fd", b"same pipe")
        for fd in (*fds, reader, writer):
            os.close(fd)
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        assert sockets.send(client.fileno(), b"named", MSG_NOSIGNAL, inet(server.getsockname()[1])) == 5
        assert server.recv(100) == b"named"
        assert sockets.send(client.fileno(), b"nowhere", MSG_NOSIGNAL) < 0


def test_a_kept_pidfd_of_a_thread_that_is_gone_is_opened_anew() -> None:
    before = len(os.listdir("/proc/self/fd"))
    threads = sockets.Threads(limit=2)
    reader, writer = os.pipe()
    with socket.socket() as own:
        for _ in range(4):  # more than are kept
            child = os.fork()
            if child == 0:
                os.read(reader, 1)
                os._exit(0)
            for _ in range(3):
                with threads.take(child, own.fileno()) as taken:
                    assert (taken.domain, taken.kind) == (socket.AF_INET, socket.SOCK_STREAM)
            os.write(writer, b"x")
            os.waitpid(child, 0)
            with pytest.raises(SyscallError) as caught:
                threads.take(child, own.fileno())
            assert caught.value.errno in (ESRCH, EINVAL)
    os.close(reader)
    os.close(writer)
    threads.close()
    assert len(os.listdir("/proc/self/fd")) == before
