"""Unix sockets: those of the sandbox and those that the policy names are reached, by what they are, not by a name."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from netlab import denied, run

from sandlock_notif import processes
from sandlock_testkit.renaming import renaming

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("landlock", level=1),
]

CLIENT = """
def stream(path):
    def work():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path); s.sendall(b"hello"); return s.recv(100).decode()
    return work
def datagram(path, how="sendto"):
    def work():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            if how == "connect": s.connect(path); return s.send(b"hello")
            if how == "sendmsg": return s.sendmsg([b"hello"], [], 0, path)
            return s.sendto(b"hello", path)
    return work
"""


@contextmanager
def listening(path: str, kind: int = socket.SOCK_STREAM) -> Iterator[list[bytes]]:
    """A socket file of the host's, and what arrived there."""
    import threading  # lazy: not every test listens

    seen: list[bytes] = []
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(path)
    if not path.startswith("\0"):
        os.chmod(path, 0o666)  # noqa: S103  # the program may be another user
    if kind == socket.SOCK_STREAM:
        server.listen()

    def work() -> None:
        while True:
            try:
                if kind == socket.SOCK_DGRAM:
                    data = server.recv(100)
                    if not data:
                        return
                    seen.append(data)
                    continue
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                seen.append(connection.recv(100))
                connection.sendall(b"HOST")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()


@pytest.fixture
def folders() -> Iterator[tuple[str, str]]:
    """A folder that the sandbox may write to, and one outside; short names, for sun_path is short."""
    with tempfile.TemporaryDirectory(prefix="sl", dir="/tmp") as base:
        os.chmod(base, 0o755)  # noqa: S103  # likewise
        made = os.path.join(base, "in"), os.path.join(base, "out")
        for one in made:
            os.mkdir(one)
        yield made


def test_ll_13_a_socket_file_outside_is_reached_only_where_the_policy_names_it(folders: tuple[str, str]) -> None:
    inside, outside = folders
    named, other = f"{outside}/a", f"{outside}/b"
    with listening(named) as first, listening(other) as second:
        code = (
            CLIENT
            + f"""
tell(stream({named!r})); tell(stream({other!r})); tell(stream({outside + "/none"!r})); tell(stream({inside!r}))
os.chdir({outside!r}); tell(stream("a")); tell(stream("../out/./a")); tell(stream("b"))
"""
        )
        outcome = run(code, writable=inside, unix_allow=[named])
        refused = "ECONNREFUSED"
        expected = ["HOST", refused, "ENOENT", refused, "HOST", "HOST", refused]
        assert outcome.output.decode().split() == expected
        assert (len(first), len(second)) == (3, 0)
    assert denied(outcome)[0] == ("connect", f"--unix-allow {other}")


def test_a_rename_elsewhere_does_not_disturb_the_way_to_a_socket(folders: tuple[str, str]) -> None:
    """The kernel answers EAGAIN to a walk of `..` within a root during any rename; a connect knows no such error."""
    inside, outside = folders
    with renaming(Path(outside, "moving")), listening(f"{outside}/a"):
        code = CLIENT + f"os.chdir({outside!r})\nfor _ in range(500): tell(stream('../out/' * 12 + 'a'))"
        outcome = run(code, writable=inside, unix_allow=[f"{outside}/a"])
    assert set(outcome.output.decode().split()) == {"HOST"}


@pytest.mark.parametrize("how", ["sendto", "sendmsg", "connect"])
def test_ll_14_datagrams_to_socket_files_are_judged_by_every_call(folders: tuple[str, str], how: str) -> None:
    inside, outside = folders
    named, other = f"{outside}/a", f"{outside}/b"
    with listening(named, socket.SOCK_DGRAM) as first, listening(other, socket.SOCK_DGRAM) as second:
        code = CLIENT + f"tell(datagram({named!r}, {how!r})); tell(datagram({other!r}, {how!r}))"
        output = run(code, writable=inside, unix_allow=[named]).output.split()
        assert output == [b"5", b"ECONNREFUSED" if how == "connect" else b"EPERM"]
        while not first:
            pass
        assert (first, second) == ([b"hello"], [])


def test_ll_13_links_and_renames_by_the_program_lead_to_no_other_socket(folders: tuple[str, str]) -> None:
    inside, outside = folders
    named, other = f"{inside}/d/a", f"{outside}/b"
    os.mkdir(f"{inside}/d")
    with listening(named) as first, listening(other) as second:
        code = (
            CLIENT
            + f"""
tell(stream({named!r}))
os.symlink({other!r}, "link"); tell(stream("link"))
tell(lambda: os.link({other!r}, {inside + "/d/b"!r}))
os.rename("d/a", "d/old"); os.symlink({other!r}, "d/a"); tell(stream({named!r}))
os.rename("d", "e"); os.symlink({outside!r}, "d"); os.symlink({other!r}, "e/a2"); tell(stream("d/b"))
tell(stream("/proc/self/root{other}")); tell(stream("/proc/self/cwd/../out/b"))
"""
        )
        output = run(code, writable=inside, unix_allow=[named]).output.decode().split()
        assert output[:2] == ["HOST", "ECONNREFUSED"]
        assert output[2] in ("EACCES", "EXDEV", "EPERM")
        assert output[3:5] == ["ECONNREFUSED"] * 2
        assert set(output[5:]) <= {"ELOOP", "ECONNREFUSED", "ENOENT"}
        assert (len(first), len(second)) == (1, 0)


def test_sockets_of_the_sandbox_work_and_keep_their_names(folders: tuple[str, str]) -> None:
    inside, _ = folders
    code = (
        CLIENT
        + """
os.umask(0o027)
for path in ("rel", os.getcwd() + "/abs"):
    server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()
    print(server.getsockname() == path, oct(os.stat(path).st_mode & 0o777))
    def answer():
        c, _ = server.accept(); c.recv(9); c.sendall(b"own")
    threading.Thread(target=answer, daemon=True).start()
    tell(stream(path))
    tell(lambda: socket.socket(socket.AF_UNIX).bind(path))
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); receiver.bind("gram")
tell(datagram("gram")); print(receiver.recv(9))
tell(lambda: socket.socket(socket.AF_UNIX).bind("none/x")); tell(lambda: socket.socket(socket.AF_UNIX).bind("/etc/x"))
"""
    )
    outcome = run(code, writable=inside, unix_allow=["/nowhere"])
    assert outcome.output.decode().splitlines() == [
        "True 0o750", "own", "EADDRINUSE", "True 0o750", "own", "EADDRINUSE", "5", "b'hello'", "ENOENT", "EACCES",
    ]  # fmt: skip
    assert Path(inside, "abs").is_socket()


def test_a_socket_file_swapped_after_bind_is_not_taken_for_the_sandboxs_own(folders: tuple[str, str]) -> None:
    inside, outside = folders
    other = f"{outside}/b"
    with listening(other) as seen:
        code = (
            CLIENT
            + f"""
stop = False
def swap():
    while not stop:
        try: os.unlink("s")
        except OSError: pass
        try: os.symlink({other!r}, "s")
        except OSError: pass
threading.Thread(target=swap, daemon=True).start()
reached = 0
for _ in range(1000):
    s = socket.socket(socket.AF_UNIX)
    try: s.bind("s")
    except OSError: pass
    try: stream({other!r})(); reached += 1
    except OSError: pass
stop = True
print(reached)
"""
        )
        assert run(code, writable=inside, unix_allow=["/nowhere"]).output == b"0\n"
        assert seen == []


def test_abstract_names_are_the_sandboxs_own_or_refused(folders: tuple[str, str]) -> None:
    name = f"\0sandlock-test-{os.getpid()}"
    with listening(name) as seen:
        code = (
            CLIENT
            + f"""
tell(stream({name!r})); tell(stream({name + "none"!r}))
server = socket.socket(socket.AF_UNIX); server.bind({name + "own"!r}); server.listen()
def answer():
    c, _ = server.accept(); c.recv(9); c.sendall(b"own")
threading.Thread(target=answer, daemon=True).start()
tell(stream({name + "own"!r}))
auto = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); auto.bind(""); tell(datagram(auto.getsockname()))
"""
        )
        outcome = run(code, writable=folders[0], unix_allow=["/nowhere"])
        assert outcome.output == b"ECONNREFUSED\nECONNREFUSED\nown\n5\n"
        assert seen == []


@pytest.mark.parametrize("known", [True, False], ids=["known", "of-many"])
def test_not_23_descriptors_passed_on_are_the_programs_own(
    folders: tuple[str, str], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a process that the index has no pidfd for, since there are too many."""
    if not known:
        monkeypatch.setattr(processes, "MAX_PIDFDS", 0)
    code = """
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
r, w = os.pipe()
socket.send_fds(left, [b"x"], [r, w])
data, fds, _, _ = socket.recv_fds(right, 10, 5)
os.write(fds[1], b"through"); print(data, os.read(r, 10), os.path.sameopenfile(fds[0], r))
bad = 0
for number in range(3, 64):
    if number in (left.fileno(), right.fileno(), r, w, *fds): continue
    try: socket.send_fds(left, [b"x"], [number]); bad += 1
    except OSError as error: bad += error.errno != errno.EBADF
print(bad)
def creds(pid, uid, gid): return [(socket.SOL_SOCKET, 2, struct.pack("iII", pid, uid, gid))]
right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
tell(lambda: left.sendmsg([b"mine"], creds(os.getpid(), os.getuid(), os.getgid())))
_, [(_, _, got)], _, _ = right.recvmsg(10, 100)
print(struct.unpack("iII", got)[1:] == (os.getuid(), os.getgid()))
tell(lambda: left.sendmsg([b"forged"], creds(1, os.getuid(), os.getgid())))
tell(lambda: left.sendmsg([b"forged"], creds(os.getpid(), os.getuid() + 1, os.getgid())))
before = len(os.listdir("/proc/self/fd"))
for _ in range(2000):
    try: socket.send_fds(left, [b"x"], [999])
    except OSError: pass
print(len(os.listdir("/proc/self/fd")) - before)
"""
    before = len(os.listdir("/proc/self/fd"))
    outcome = run(code, writable=folders[0], unix_allow=["/nowhere"])
    assert outcome.output.decode().splitlines() == [
        "b'x' b'through' True", "0", "4", "True", "EPERM", "EPERM", "0",
    ]  # fmt: skip
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_full_backlog_is_waited_for_and_a_full_queue_too(folders: tuple[str, str]) -> None:
    code = (
        CLIENT
        + """
server = socket.socket(socket.AF_UNIX); server.bind("s"); server.listen(0)
first = socket.socket(socket.AF_UNIX); first.connect("s")
quick = socket.socket(socket.AF_UNIX); quick.setblocking(False); tell(lambda: quick.connect("s"))
threading.Timer(0.3, lambda: server.accept()).start()
start = time.monotonic(); second = socket.socket(socket.AF_UNIX); second.connect("s")
print(time.monotonic() - start > 0.2)
print(struct.unpack("qq", second.getsockopt(1, 21, 16)))
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); receiver.bind("g")
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); count = 0
try:
    while True: sender.sendto(b"x", socket.MSG_DONTWAIT, "g"); count += 1
except BlockingIOError: print("full")
threading.Timer(0.2, lambda: receiver.recv(9)).start()
tell(lambda: sender.sendto(b"y", "g"))
"""
    )
    outcome = run(code, writable=folders[0], unix_allow=["/nowhere"])
    assert outcome.output.decode().splitlines() == ["EAGAIN", "True", "(0, 0)", "full", "1"]
