"""Open files are as they were: offsets, flags, which descriptors share them, and what is in pipes and sockets."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
from process_lab import Lab

from sandlock_checkpoint import CaptureError, RestoreError, capture

pytestmark = pytest.mark.needs("ptrace")

FILES = """
import fcntl, os, select, signal, socket, struct, sys, tempfile, time
folder, flag = sys.argv[1:]
path = os.path.join(folder, "text")
with open(path, "w") as file:
    file.write("0123456789" * 10)
reader = os.open(path, os.O_RDONLY)
same = os.dup(reader)
apart = os.open(path, os.O_RDWR | os.O_APPEND)
os.lseek(reader, 25, os.SEEK_SET)
os.set_inheritable(same, True)
os.dup2(reader, 100)
locked = os.open(path, os.O_RDWR)
fcntl.flock(locked, fcntl.LOCK_EX)
fcntl.lockf(apart, fcntl.LOCK_EX, 10, 5)
temporary = tempfile.TemporaryFile(); temporary.write(b"unnamed"); temporary.flush()
unfollowed = os.open(os.path.join(folder, "un"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
os.write(unfollowed, b"unfollowed"); os.unlink(os.path.join(folder, "un"))
places = [os.open(name, os.O_PATH | os.O_NOFOLLOW) for name in ("/usr", "/etc/passwd")]
gone = os.open(os.path.join(folder, "gone"), os.O_RDWR | os.O_CREAT)
os.write(gone, b"no name"); os.unlink(os.path.join(folder, "gone")); os.lseek(gone, 3, 0)
memory = os.memfd_create("m"); os.write(memory, b"in memory"); os.lseek(memory, 3, 0)
source, sink = os.pipe(); os.write(sink, b"x" * 5000); os.set_blocking(source, False)
half, ended = os.pipe(); os.write(ended, b"last words"); os.close(ended)
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
left.send(b"one"); left.send(b"two"); right.send(b"back")
stream, other = socket.socketpair(); stream.send(b"some bytes")
event = os.eventfd(5, os.EFD_SEMAPHORE) if hasattr(os, "EFD_SEMAPHORE") else -1
poll = select.epoll(); poll.register(source, select.EPOLLIN); poll.register(left.fileno(), select.EPOLLIN)
folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
null = os.open("/dev/null", os.O_WRONLY)
os.chdir(folder)
print("ready", flush=True)
while not os.path.exists(flag):
    time.sleep(0.005)
assert os.getcwd() == folder
assert os.read(same, 3) == b"567" and os.read(100, 2) == b"89" and os.lseek(reader, 0, os.SEEK_CUR) == 30
assert os.get_inheritable(same) and not os.get_inheritable(reader)
os.write(apart, b"end"); assert os.path.getsize(path) == 103
assert fcntl.fcntl(apart, fcntl.F_GETFL) & os.O_APPEND
fresh = os.open(path, os.O_RDWR)
try:
    fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB); print("unlocked")
except BlockingIOError:
    pass
child = os.fork()
if not child:
    try:
        fcntl.lockf(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7); os._exit(1)
    except OSError:
        os._exit(0)
assert os.waitpid(child, 0)[1] == 0
temporary.seek(0)
assert temporary.read() == b"unnamed" and os.pread(unfollowed, 20, 0) == b"unfollowed"
assert os.stat("bin", dir_fd=places[0]) == os.stat("/usr/bin") and os.fstat(places[1]) == os.stat("/etc/passwd")
assert os.read(gone, 9) == b"name" and os.fstat(gone).st_size == 7
assert os.read(memory, 9) == b"memory"
assert not os.get_blocking(source) and os.read(source, 9000) == b"x" * 5000
assert os.read(half, 100) == b"last words" and os.read(half, 1) == b""
assert right.recv(100) == b"one" and right.recv(100) == b"two" and left.recv(100) == b"back"
assert other.recv(100) == b"some bytes"
assert event < 0 or [os.eventfd_read(event) for _ in range(5)] == [1] * 5
os.write(sink, b"again"); right.send(b"again")
assert {fd for fd, _ in poll.poll(1)} == {source, left.fileno()}
assert "text" in os.listdir(folder_fd)
assert os.write(null, b"nothing") == 7
print("all there", flush=True)
"""


def test_open_files_are_as_they_were(lab: Lab) -> None:
    flag = lab.folder / "flag"
    data = lab.folder / "data"
    data.mkdir()
    running = lab.python(FILES, str(data), str(flag))
    running.wait_for("ready")
    before = sorted(os.listdir(f"/proc/{running.pid}/fd"))
    restored = lab.cycle(running)
    assert sorted(os.listdir(f"/proc/{restored.pid}/fd")) == before
    flag.touch()
    assert lab.finish(restored) == 0, running.text()
    assert running.lines() == ["ready", "all there"]


CONNECTED = """
import socket, sys, time
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
time.sleep(1)
one.send(b"still here"); print("sent", flush=True)
"""


def test_a_connection_is_refused_by_name_and_goes_on(lab: Lab) -> None:
    """CK-11: nothing is dropped in silence. The refused process is not harmed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        running = lab.python(CONNECTED, str(server.getsockname()[1]))
        peer, _ = server.accept()
        running.wait_for("ready")
        with pytest.raises(CaptureError, match="tcp_socket") as caught:
            capture(running.pid)
        (one,) = caught.value.unsupported
        assert (one.name, one.kind) == ("fd:3", "tcp_socket")
        with capture(running.pid, allow={"fd:3"}) as checkpoint:  # taken on by name, it is
            assert [found.name for found in checkpoint.unsupported] == ["fd:3"]
        assert peer.recv(100) == b"still here"
        peer.close()
    assert running.process.wait(20) == 0


LISTENING = """
import socket, time
server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", 0)); server.listen(7)
print("port", server.getsockname()[1], flush=True)
peer, _ = server.accept()
peer.send(b"hello from " + str(server.getsockname()[1]).encode())
"""


def test_a_listening_socket_is_opened_again_by_choice(lab: Lab) -> None:
    running = lab.python(LISTENING)
    running.wait_for("\n")
    port = int(running.text().split()[1])
    with pytest.raises(CaptureError, match="listening_socket"):
        capture(running.pid)
    with lab.take(running, allow={"listening_socket"}) as checkpoint:
        restored = lab.restore(checkpoint)
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert client.recv(100) == b"hello from %d" % port
    assert lab.finish(restored) == 0


@pytest.mark.parametrize("change", ["replaced", "linked", "missing"])
def test_another_file_under_the_name_is_refused(lab: Lab, change: str) -> None:
    """CK-07: an image names a file; what has the name now must be the very file that was open."""
    text, flag = lab.folder / "text", lab.folder / "flag"
    text.write_text("mine")
    running = lab.python(
        "import os, sys, time\nfile = open(sys.argv[1]); print('ready')\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\nprint(file.read())",
        str(text),
        str(flag),
    )
    running.wait_for("ready")
    with lab.take(running) as checkpoint:
        moved = text.rename(lab.folder / "moved")
        if change == "replaced":
            text.write_text("mine")
        elif change == "linked":
            (lab.folder / "secret").write_text("secret")
            text.symlink_to(lab.folder / "secret")
        with pytest.raises(RestoreError, match="text"):
            lab.restore(checkpoint)
        text.unlink(missing_ok=True)
        moved.rename(text)
        restored = lab.restore(checkpoint)  # and with the file in its place it runs
    flag.touch()
    assert lab.finish(restored) == 0
    assert running.lines()[-1] == "mine"


def test_a_library_that_has_changed_is_refused(lab: Lab) -> None:
    """CK-07: a mapping shows a file's contents, so these must be the same too."""
    library = lab.folder / "data.bin"
    library.write_bytes(bytes(range(256)) * 64)
    running = lab.python(
        "import mmap, sys, time\nfile = open(sys.argv[1], 'rb')\n"
        "view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE); file.close()\n"
        "print('ready'); time.sleep(60)",
        str(library),
    )
    running.wait_for("ready")
    with lab.take(running) as checkpoint:
        with library.open("r+b") as file:
            file.write(b"other")
        with pytest.raises(RestoreError, match="changed after the capture"):
            lab.restore(checkpoint)


def test_a_process_of_another_user_is_not_restored_as_this_one(lab: Lab) -> None:
    """CK-01: identities come from the restorer; an image cannot lend one."""
    running = lab.python("import time; print('ready'); time.sleep(60)")
    running.wait_for("ready")
    with lab.take(running) as checkpoint:
        process = dataclasses.replace(checkpoint.processes[0], uid=(4711,) * 4)
        other = dataclasses.replace(checkpoint, processes=(process,))
        with pytest.raises(RestoreError, match="user 4711"):
            lab.restore(other)
        restored = lab.restore(other, allow={"credentials"})
        facts = Path(f"/proc/{restored.pid}").stat()
        assert facts.st_uid == os.getuid()
