"""pidfd, memfd, openat2 and close_range."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sandlock_sys import close_range, memfd, openat2, pidfd
from sandlock_sys.constants.close_range import CloseRange
from sandlock_sys.constants.memfd import CreateFlag, Seal
from sandlock_sys.constants.openat2 import Resolve
from sandlock_sys.constants.pidfd import OpenFlag, SignalFlag
from sandlock_sys.errors import SyscallError
from sandlock_sys.probe import probe


def test_a_pidfd_waits_for_the_end_and_signals_nobody_else(sleeper: int) -> None:
    process = pidfd.open_pidfd(sleeper)
    assert not os.get_inheritable(process)
    assert pidfd.wait(process, 0) is False
    started = time.monotonic()
    assert pidfd.wait(process, 0.05) is False
    assert time.monotonic() - started >= 0.04
    pidfd.send_signal(process, 0)
    pidfd.send_signal(process, signal.SIGKILL)
    assert pidfd.wait(process) is True
    os.waitpid(sleeper, 0)
    assert pidfd.wait(process, 0) is True
    with pytest.raises(SyscallError) as caught:
        pidfd.send_signal(process, 0)
    assert caught.value.errno == errno.ESRCH
    os.close(process)


def test_an_fd_of_another_process_is_the_same_open_file(child: Any, tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    def body() -> None:
        os.lseek(file, 4, os.SEEK_SET)
        time.sleep(60)

    with child(body) as pid:
        while os.lseek(file, 0, os.SEEK_CUR) != 4:
            time.sleep(0.001)
        process = pidfd.open_pidfd(pid)
        copy = pidfd.getfd(process, file)
        assert os.lseek(copy, 0, os.SEEK_CUR) == 4
        assert not os.get_inheritable(copy)
        assert os.fstat(copy).st_ino == os.fstat(file).st_ino
        with pytest.raises(SyscallError) as caught:
            pidfd.getfd(process, 999)
        assert caught.value.errno == errno.EBADF
        for fd in (copy, process, file):
            os.close(fd)


@pytest.mark.needs("pidfd", level=3)
def test_a_thread_has_a_pidfd_of_its_own() -> None:
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    tid = thread.native_id
    assert tid is not None
    with pytest.raises(SyscallError):
        pidfd.open_pidfd(tid)
    one = pidfd.open_pidfd(tid, OpenFlag.THREAD)
    assert pidfd.wait(one, 0) is False
    pidfd.send_signal(one, 0, SignalFlag.THREAD)
    leave.set()
    assert pidfd.wait(one, 10) is True
    thread.join()
    os.close(one)


def test_nonblocking_pidfds_and_missing_processes(sleeper: int) -> None:
    process = pidfd.open_pidfd(sleeper, OpenFlag.NONBLOCK)
    assert not os.get_blocking(process)
    os.close(process)
    with pytest.raises(SyscallError) as caught:
        pidfd.open_pidfd(2**22 + 1)
    assert caught.value.errno in (errno.ESRCH, errno.EINVAL)


def test_a_sealed_memfd_no_longer_changes() -> None:
    fd = memfd.create(b"na\xffme")
    assert not os.get_inheritable(fd)
    assert os.fsencode(os.readlink(f"/proc/self/fd/{fd}")) == b"/memfd:na\xffme (deleted)"
    os.write(fd, b"content")
    assert memfd.get_seals(fd) == 0
    memfd.add_seals(fd, Seal.WRITE | Seal.GROW | Seal.SHRINK | Seal.SEAL)
    assert Seal(memfd.get_seals(fd)) == Seal.WRITE | Seal.GROW | Seal.SHRINK | Seal.SEAL
    for change in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 0)):
        with pytest.raises(PermissionError):
            change()
    with pytest.raises(SyscallError) as caught:
        memfd.add_seals(fd, Seal.EXEC)
    assert caught.value.errno == errno.EPERM
    assert os.pread(fd, 100, 0) == b"content"
    os.close(fd)


def test_memfds_without_sealing_names_and_wrong_ones() -> None:
    fd = memfd.create(b"", CreateFlag.CLOEXEC)
    assert memfd.get_seals(fd) == Seal.SEAL
    os.close(fd)
    with pytest.raises(SyscallError) as caught:
        memfd.create(b"x" * 250)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="NUL"):
        memfd.create(b"a\0b")
    if probe().memfd_noexec_seal:  # 6.3
        fd = memfd.create(b"data", CreateFlag.CLOEXEC | CreateFlag.NOEXEC_SEAL)
        assert memfd.get_seals(fd) & Seal.EXEC
        assert os.fstat(fd).st_mode & 0o111 == 0
        os.close(fd)


def test_openat2_keeps_a_path_beneath_its_directory(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root" / "file").write_text("inside")
    (tmp_path / "root" / "link").symlink_to("/file")
    (tmp_path / "root" / "out").symlink_to("../secret")
    directory = os.open(tmp_path / "root", os.O_PATH)

    def content(path: bytes, resolve: int) -> bytes:
        fd = openat2.openat2(directory, path, os.O_RDONLY, resolve)
        assert not os.get_inheritable(fd)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)

    assert content(b"file", Resolve.BENEATH) == b"inside"
    assert content(b"out", 0) == b"outside"
    assert content(b"link", Resolve.IN_ROOT) == b"inside"
    for path, resolve, error in [
        (b"out", Resolve.BENEATH, errno.EXDEV),
        (b"../secret", Resolve.BENEATH, errno.EXDEV),
        (b"../secret", Resolve.IN_ROOT, errno.ENOENT),
        (b"link", Resolve.NO_SYMLINKS, errno.ELOOP),
    ]:
        with pytest.raises(SyscallError) as caught:
            content(path, resolve)
        assert (caught.value.errno, caught.value.detail) == (error, os.fsdecode(path))
    with pytest.raises(ValueError, match="NUL"):
        content(b"file\0", 0)
    with pytest.raises(SyscallError) as caught:
        content(b"file", 1 << 60)
    assert caught.value.errno == errno.EINVAL
    created = openat2.openat2(directory, b"new", os.O_WRONLY | os.O_CREAT, Resolve.BENEATH, 0o600)
    assert os.fstat(created).st_mode & 0o777 == 0o600
    os.close(created)
    os.close(directory)
    fd = openat2.openat2(openat2.AT_FDCWD, b"/", os.O_PATH)
    os.close(fd)


def test_a_range_of_fds_is_closed_or_marked(in_child: Any) -> None:
    def body() -> list[bool]:
        first = 100
        for number in range(first, first + 5):
            os.dup2(0, number, inheritable=True)
        close_range.close_range(first, first + 1)
        close_range.close_range(first + 2, first + 3, CloseRange.CLOEXEC)
        return [is_open(number) for number in range(first, first + 5)] + [
            os.get_inheritable(number) for number in range(first + 2, first + 5)
        ]

    assert in_child(body) == [False, False, True, True, True, False, False, True]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_range_may_reach_to_the_end_of_the_table(in_child: Any) -> None:
    def body() -> tuple[bool, bool]:
        os.dup2(0, 500)
        close_range.close_range(400)
        return is_open(500), is_open(0)

    assert in_child(body) == (False, True)
    with pytest.raises(SyscallError) as caught:
        close_range.close_range(5, 4)
    assert caught.value.errno == errno.EINVAL
