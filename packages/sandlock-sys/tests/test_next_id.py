"""Whoever made a pid namespace says which id it gives next; nobody else does."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandlock_sys.errors import SyscallError
from sandlock_sys.next_id import set_last_id

INSIDE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "sh",
    "-c",
    "echo up; while read x; do sh -c 'echo $$'; done",
]


@contextmanager
def namespaces(pid: int) -> Iterator[tuple[int, int]]:
    fds = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in ("user", "pid_for_children")]
    try:
        yield fds[0], fds[1]
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.needs("pid_namespace")
@pytest.mark.needs("command:unshare")
def test_ids_are_given_from_where_they_are_wanted() -> None:
    process = subprocess.Popen(INSIDE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    with process:
        asking, told = process.stdin, process.stdout
        assert asking is not None
        assert told is not None
        assert told.readline() == b"up\n"

        def made() -> int:
            asking.write(b"\n")
            return int(told.readline())

        assert made() == 2
        with namespaces(process.pid) as (user, pids):
            for wanted in (4711, 17, 30000):
                set_last_id(user, pids, wanted - 1)
                assert made() == wanted
            with pytest.raises(SyscallError) as caught:
                set_last_id(user, pids, 1 << 40)
            assert caught.value.errno == errno.EINVAL
        assert made() == 30002  # whoever asked in vain had one as well
        asking.close()
        assert process.wait(60) == 0


def test_what_is_no_namespace_is_refused() -> None:
    for user in (None, -1, 1 << 20):
        with pytest.raises(SyscallError) as caught:
            set_last_id(user, 1 << 20, 1)
        assert caught.value.errno in {errno.EBADF, errno.EPERM}


@pytest.mark.skipif(os.geteuid() == 0, reason="root has the right")
def test_a_namespace_of_somebody_else_is_refused() -> None:
    with namespaces(os.getpid()) as (_, pids), pytest.raises(SyscallError) as caught:
        set_last_id(None, pids, 1)
    assert caught.value.errno == errno.EPERM
