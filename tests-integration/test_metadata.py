"""LL-01, LL-02: modes, owners, times, attributes and inode flags outside the write grants stay as they are."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack_lab import Area, Box, call, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

HERE, EMPTY, NOFOLLOW = -100, 0x1000, 0x100  # linux/fcntl.h
SET_FLAGS, FS_SET_XATTR = 0x40086602, 0x401C5820  # linux/fs.h: FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR
NO_DUMP = struct.pack("=q", 0x40)  # FS_NODUMP_FL, which every owner may set
THEN = struct.pack("=qqqq", 1_000_000, 0, 1_000_000, 0)
UTIMBUF = struct.pack("=qq", 1_000_000, 1_000_000)
ME, MINE = os.getuid(), os.getgid()
ATTRIBUTE = struct.pack("=QII", 0, 0, 0)  # struct xattr_args, linux/xattr.h: an empty value

BY_PATH: dict[str, Callable[[str], list[str]]] = {
    "chmod": lambda p: call("it", "chmod", p, 0o777),
    "fchmodat": lambda p: call("it", "fchmodat", HERE, p, 0o777),
    "fchmodat2": lambda p: call("it", "fchmodat2", HERE, p, 0o777, 0),
    "chown": lambda p: call("it", "chown", p, ME, MINE),
    "lchown": lambda p: call("it", "lchown", p, ME, MINE),
    "fchownat": lambda p: call("it", "fchownat", HERE, p, ME, MINE, 0),
    "fchownat_nofollow": lambda p: call("it", "fchownat", HERE, p, ME, MINE, NOFOLLOW),
    "utime": lambda p: call("it", "utime", p, UTIMBUF),
    "utimes": lambda p: call("it", "utimes", p, THEN),
    "futimesat": lambda p: call("it", "futimesat", HERE, p, THEN),
    "utimensat": lambda p: call("it", "utimensat", HERE, p, THEN, 0),
    "utimensat_now": lambda p: call("it", "utimensat", HERE, p, 0, 0),
    "setxattr": lambda p: call("it", "setxattr", p, "user.attack", "x", 1, 0),
    "lsetxattr": lambda p: call("it", "lsetxattr", p, "user.attack", "x", 1, 0),
    "setxattrat": lambda p: call("it", "setxattrat", HERE, p, 0, "user.attack", ATTRIBUTE, 16),
    "removexattr": lambda p: call("it", "removexattr", p, "user.there"),
    "lremovexattr": lambda p: call("it", "lremovexattr", p, "user.there"),
    "removexattrat": lambda p: call("it", "removexattrat", HERE, p, 0, "user.there"),
    "file_setattr": lambda p: call(
        "it", "file_setattr", HERE, p, struct.pack("=QIIIIQ", 0x80, 0, 0, 0, 0, 0)[:24], 24, 0
    ),
    "by_path_fd": lambda p: [
        *call("fd", "openat", HERE, p, os.O_PATH),
        *call("it", "fchmodat2", "@fd", "", 0o777, EMPTY),
    ],
    "owner_by_path_fd": lambda p: [
        *call("fd", "openat", HERE, p, os.O_PATH),
        *call("it", "fchownat", "@fd", "", ME, MINE, EMPTY),
    ],
    "time_by_path_fd": lambda p: [
        *call("fd", "openat", HERE, p, os.O_PATH),
        *call("it", "utimensat", "@fd", "", THEN, EMPTY),
    ],
    "by_proc_fd": lambda p: [*call("fd", "openat", HERE, p, os.O_PATH), *call("it", "chmod", "/proc/self/fd/3", 0o777)],
    "by_proc_root": lambda p: call("it", "chmod", f"/proc/self/root{p}", 0o777),
}
BY_DESCRIPTOR: dict[str, Callable[[int | str], list[str]]] = {
    "fchmod": lambda fd: call("it", "fchmod", fd, 0o777),
    "fchown": lambda fd: call("it", "fchown", fd, ME, MINE),
    "futimens": lambda fd: call("it", "utimensat", fd, 0, THEN, 0),
    "futimesat": lambda fd: call("it", "futimesat", fd, 0, THEN),
    "fsetxattr": lambda fd: call("it", "fsetxattr", fd, "user.attack", "x", 1, 0),
    "fremovexattr": lambda fd: call("it", "fremovexattr", fd, "user.there"),
    "set_flags": lambda fd: call("it", "ioctl", fd, SET_FLAGS, NO_DUMP),
    "set_flags_high": lambda fd: call("it", "ioctl", fd, SET_FLAGS | 1 << 32, NO_DUMP),
    "fs_set_xattr": lambda fd: call("it", "ioctl", fd, FS_SET_XATTR, struct.pack("=7I", 0x80, 0, 0, 0, 0, 0, 0)),
    "fchmodat2_empty": lambda fd: call("it", "fchmodat2", fd, "", 0o777, EMPTY),
    "by_proc": lambda fd: call("it", "chmod", f"/proc/self/fd/{fd}", 0o777),
}
REFUSED = {errno.EPERM, errno.EROFS, errno.EACCES, errno.ENOSYS}


@pytest.fixture
def attributed(areas: dict[str, Area]) -> dict[str, Area]:
    """The areas, each file with an attribute to remove and a time to change; owners left as they are."""
    for area in areas.values():
        os.setxattr(area.at("file"), "user.there", b"x")
        os.utime(area.at("file"), ns=(5, 5))
    return areas


@pytest.mark.every_abi
@pytest.mark.parametrize("way", BY_PATH)
def test_ll_01_metadata_by_path(box: Box, attributed: dict[str, Area], way: str) -> None:
    try:
        BY_PATH[way]("/")
    except AssertionError:
        pytest.skip(f"no {way} on this architecture, or above its reviewed table (SEC-17)")
    was = os.stat(attributed["bare"].at("file")).st_ctime_ns
    box.bare_lines("invoke", *BY_PATH[way](attributed["bare"].at("file")))
    won = os.stat(attributed["bare"].at("file")).st_ctime_ns != was
    extra = {"fs_readable": [*box.fields()["fs_readable"], "/proc"]}
    for denied in ("read", "secret"):
        before, changed = fingerprint(attributed[denied].path), os.stat(attributed[denied].at("file")).st_ctime_ns
        line = box.lines("invoke", *BY_PATH[way](attributed[denied].at("file")), **extra)["it"]
        assert line.errno in REFUSED, line
        assert fingerprint(attributed[denied].path) == before
        assert os.stat(attributed[denied].at("file")).st_ctime_ns == changed, "not even to the value that it has"
    if way not in {
        "time_by_path_fd",
        "setxattrat",
        "removexattrat",
        "file_setattr",
    }:  # newer than some kernels, or than 6.6
        assert won, "bare, the owner may"


@pytest.mark.every_abi
@pytest.mark.parametrize("way", BY_DESCRIPTOR)
def test_ll_02_metadata_through_a_read_only_descriptor(box: Box, attributed: dict[str, Area], way: str) -> None:
    def words(path: str) -> list[str]:
        return [*call("fd", "openat", HERE, path, 0), *BY_DESCRIPTOR[way]("@fd" if way != "by_proc" else 3)]

    try:
        words("/")
    except AssertionError:
        pytest.skip(f"no {way} on this architecture")
    path = attributed["bare"].at("file")
    was = os.stat(path).st_ctime_ns
    box.bare_lines("invoke", *words(path))
    assert os.stat(path).st_ctime_ns != was, "bare, the owner may (ext4 sets flags, and then says EOPNOTSUPP)"
    path = attributed["read"].at("file")
    before, changed, flags = fingerprint(attributed["read"].path), os.stat(path).st_ctime_ns, _flags(path)
    inside = box.lines("invoke", *words(path), fs_readable=[*box.fields()["fs_readable"], "/proc"])
    assert inside["fd"].won
    assert inside["it"].errno in REFUSED, inside
    assert fingerprint(attributed["read"].path) == before
    assert os.stat(path).st_ctime_ns == changed
    assert _flags(path) == flags


def _flags(path: str) -> str:
    return subprocess.run(["lsattr", path], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("way", BY_DESCRIPTOR)
@pytest.mark.parametrize("stream", [0, 2])
def test_ll_02_metadata_through_an_inherited_stream(
    box: Box, attributed: dict[str, Area], way: str, stream: int
) -> None:
    """A redirection of the caller gives a descriptor that was opened outside, on a mount that is not read-only."""
    try:
        words = BY_DESCRIPTOR[way](stream)
    except AssertionError:
        pytest.skip(f"no {way} on this architecture")
    path = attributed["secret"].at("file")
    bare_path = attributed["bare"].at("file")
    was = os.stat(bare_path).st_ctime_ns
    with open(bare_path, "rb") as file:
        subprocess.run(
            [box.program("invoke"), *words],
            stdin=file,
            stderr=file if stream == 2 else None,
            stdout=subprocess.PIPE,
            check=True,
        )
    assert os.stat(bare_path).st_ctime_ns != was, "bare, the owner may"
    before, changed, flags = fingerprint(attributed["secret"].path), os.stat(path).st_ctime_ns, _flags(path)
    with open(path, "rb") as file, box.sandbox(fs_readable=[*box.fields()["fs_readable"], "/proc"]) as sandbox:
        errors = file if stream == 2 else subprocess.PIPE
        with sandbox.popen(
            [box.program("invoke"), *words], stdin=file, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            output, _ = process.communicate(timeout=20)
    assert b"it -1 " in output, output
    assert fingerprint(attributed["secret"].path) == before
    assert os.stat(path).st_ctime_ns == changed
    assert _flags(path) == flags


def test_ll_01_in_the_write_grant_metadata_may_be_changed_where_namespaces_are_used(
    box: Box, attributed: dict[str, Area]
) -> None:
    path = attributed["work"].at("file")
    words = [*call("mode", "chmod", path, 0o741), *call("time", "utimensat", HERE, path, THEN, 0)]
    result = box.inside("invoke", *words, namespaces="auto")
    where = {entry.name: str(entry.layer) for entry in result.protections}
    if "namespace" in where["fs_metadata"]:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o741, result.stdout
        assert os.stat(path).st_mtime == 1_000_000
    else:
        assert b"mode -1 1" in result.stdout, "without them the filter refuses it everywhere, and the result says so"


def test_ll_01_a_mount_below_a_read_grant_is_read_only_too(box: Box) -> None:
    """/dev/shm is another mount than /: a change of the tree of mounts must reach it."""
    path = Path("/dev/shm", f"sandlock-test-{os.getpid()}-{time.monotonic_ns()}")
    path.write_text("x")
    try:
        path.chmod(0o600)
        assert box.bare_lines("invoke", *call("it", "chmod", str(path), 0o640))["it"].won
        assert not box.lines("invoke", *call("it", "chmod", str(path), 0o777))["it"].won
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        path.unlink()
