"""fdinfo and fd links of every kind of file, and names that look like another kind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_sys import memfd, pidfd, proc
from sandlock_sys.errors import ProcParseError
from sandlock_sys.proc import FdKind

LIBC = ctypes.CDLL(None)


def link(fd: int) -> proc.FdLink:
    return proc.read_fd_link(os.getpid(), fd)


@pytest.fixture
def keep() -> Iterator[Callable[[int], int]]:
    """Close what is opened in a test."""
    opened: list[int] = []

    def remember(fd: int) -> int:
        assert fd >= 0
        opened.append(fd)
        return fd

    yield remember
    for fd in opened:
        os.close(fd)


def test_each_kind_of_file_is_told_apart(tmp_path: Path, keep: Callable[[int], int]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "symlink").symlink_to("nowhere")
    path = bytes(tmp_path)
    reader, writer = os.pipe()
    keep(reader), keep(writer)
    left, right = socket.socketpair()
    with left, right:
        expected = {
            keep(os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)): (FdKind.FILE, path + b"/file"),
            keep(os.open(tmp_path, os.O_PATH)): (FdKind.DIRECTORY, path),
            keep(os.open("/dev/null", os.O_RDWR)): (FdKind.DEVICE, b"/dev/null"),
            keep(os.open(tmp_path / "fifo", os.O_RDWR)): (FdKind.FIFO, path + b"/fifo"),
            keep(os.open(tmp_path / "symlink", os.O_PATH | os.O_NOFOLLOW)): (FdKind.SYMLINK, path + b"/symlink"),
            keep(memfd.create(b"a (b)\n")): (FdKind.MEMFD, b"a (b)\n"),
            reader: (FdKind.PIPE, b""),
            left.fileno(): (FdKind.SOCKET, b""),
            keep(LIBC.eventfd(7, 0)): (FdKind.ANON_INODE, b"eventfd"),
            keep(os.open("/proc/self/ns/mnt", os.O_RDONLY)): (FdKind.NAMESPACE, b"mnt"),
        }
        for fd, (kind, name) in expected.items():
            assert (link(fd).kind, link(fd).name) == (kind, name)
        assert link(reader).inode == link(writer).inode == os.fstat(reader).st_ino
        assert link(left.fileno()).inode == os.fstat(left.fileno()).st_ino
        assert proc.list_fds(os.getpid())
        assert set(expected) <= set(proc.list_fds(os.getpid()))


@pytest.mark.parametrize(
    "name", [b"sp ace", b"new\nline", b"pipe:[12]", b"anon_inode:[eventfd]", b"\xff", b"x (deleted)", b"(deleted)"]
)
def test_a_nasty_name_stays_a_file(tmp_path: Path, keep: Callable[[int], int], name: bytes) -> None:
    path = bytes(tmp_path) + b"/" + name
    fd = keep(os.open(path, os.O_CREAT | os.O_RDWR))
    # A name that ends in " (deleted)" reads as deleted: the links are the same, st_nlink is not.
    shown = path.removesuffix(b" (deleted)")
    assert link(fd) == proc.FdLink(FdKind.FILE, shown, deleted=shown != path)
    os.unlink(path)
    assert link(fd) == proc.FdLink(FdKind.FILE, path, deleted=True)
    assert os.fstat(fd).st_nlink == 0


def test_position_flags_and_inode_are_the_open_files() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"12345")
        file.flush()
        info = proc.read_fdinfo(os.getpid(), file.fileno())
        assert (info.position, info.inode) == (5, os.fstat(file.fileno()).st_ino)
        assert info.flags & os.O_ACCMODE == os.O_RDWR
        assert info.flags & os.O_CLOEXEC
        os.set_inheritable(file.fileno(), True)
        assert not proc.read_fdinfo(os.getpid(), file.fileno()).flags & os.O_CLOEXEC
        assert info.mount_id > 0


def test_special_files_keep_their_details(tmp_path: Path, keep: Callable[[int], int], sleeper: int) -> None:
    events = keep(LIBC.eventfd(0x2A, 0))
    mask = ctypes.c_uint64(1 << signal.SIGUSR1 - 1)
    signals = keep(LIBC.signalfd(-1, ctypes.byref(mask), 0))
    watches = keep(LIBC.inotify_init1(0))
    assert LIBC.inotify_add_watch(watches, bytes(tmp_path), 2) == 1
    process = keep(pidfd.open_pidfd(sleeper))
    with select.epoll() as poller:
        poller.register(events, select.EPOLLIN)
        info = proc.read_fdinfo(os.getpid(), poller.fileno())
        assert [line.split()[:2] for line in info.details] == [[b"tfd:", b"%d" % events]]
        assert info.position == 0
    details = {fd: proc.read_fdinfo(os.getpid(), fd) for fd in (events, signals, watches, process)}
    assert int(details[events].detail("eventfd-count") or b"", 16) == 0x2A
    assert int(details[signals].detail("sigmask") or b"", 16) == mask.value
    assert details[watches].details[0].startswith(b"inotify wd:1 ino:%x " % os.stat(tmp_path).st_ino)
    assert int(details[process].detail("Pid") or b"") == sleeper
    assert details[events].detail("nothing") is None


HEAD = b"pos:\t12\nflags:\t02100002\nmnt_id:\t27\n"


def test_an_old_kernels_fdinfo_has_no_inode() -> None:
    info = proc.parse_fdinfo(HEAD)
    assert (info.position, info.flags, info.mount_id, info.inode, info.details) == (12, 0o2100002, 27, None, ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"pos:\t0\nflags:\t02\n",
        b"pos:\tx\nflags:\t02\nmnt_id:\t1\n",
        b"pos:\t0\nflags:\t9\nmnt_id:\t1\n",
        HEAD[:-1],
    ],
)
def test_a_malformed_fdinfo_is_an_error(data: bytes) -> None:
    with pytest.raises(ProcParseError):
        proc.parse_fdinfo(data)


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=5))
def test_unknown_lines_are_kept_as_they_are(lines: list[bytes]) -> None:
    lines = [line for line in lines if not line.startswith(b"ino:\t")]
    info = proc.parse_fdinfo(HEAD + b"".join(line + b"\n" for line in lines))
    assert list(info.details) == lines


@pytest.mark.parametrize(("target", "mode"), [(b"", stat.S_IFREG), (b"relative", stat.S_IFREG), (b"/path", 0)])
def test_an_unknown_link_is_an_error(target: bytes, mode: int) -> None:
    with pytest.raises(ProcParseError):
        proc.parse_fd_link(target, mode)
