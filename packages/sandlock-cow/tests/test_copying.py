"""How bytes come up: shared with the real file where the file system can, copied with their holes everywhere else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cow_lab import read, write

from sandlock_cow import copying
from sandlock_testkit.needs import lacks

if TYPE_CHECKING:
    from cow_lab import Lab

pytestmark = pytest.mark.usefixtures("leaks")

FICLONE = 0x40049409  # linux/fs.h
HOLE = 1 << 20

# Makes a branch over a file of a mebibyte, writes one byte of it, and tells the extents of both files:
# (place on the disk, whether another file has it too), with FS_IOC_FIEMAP, linux/fiemap.h.
SHARED = """
import fcntl, json, os, struct, sys
from sandlock_cow import Branch
def extents(fd):
    buf = bytearray(struct.pack("=QQIIII", 0, 2**64 - 1, 1, 0, 64, 0) + bytes(56 * 64))
    fcntl.ioctl(fd, 0xC020660B, buf)
    found = [struct.unpack_from("=QQQQQI", buf, 32 + 56 * n) for n in range(struct.unpack_from("=I", buf, 20)[0])]
    return [(logical, physical, length, bool(flags & 0x2000)) for logical, physical, length, _, _, flags in found]
os.mkdir("lower")
with open("lower/file", "wb") as file: file.write(os.urandom(1 << 20)); os.fsync(file.fileno())
with Branch("lower", storage="storage") as branch:
    fd = branch.open(b"file", os.O_RDWR)
    real = os.open("lower/file", os.O_RDONLY)
    shared = extents(fd) == extents(real) and all(row[3] for row in extents(fd))
    os.pwrite(fd, b"x", 1 << 19); os.fsync(fd)
    kept = os.pread(real, 1 << 20, 0) != os.pread(fd, 1 << 20, 0)
    part = sum(row[2] for row in extents(fd) if row[3])
    os.close(fd); os.close(real); branch.commit()
print(json.dumps([shared, kept, 0 < part < 1 << 20, open("lower/file", "rb").read()[1 << 19] == ord("x")]))
"""


@pytest.mark.needs("root")  # to mount
@pytest.mark.needs("command:mkfs.btrfs")
def test_a_copy_shares_its_bytes_with_the_real_file_where_the_file_system_can(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    # The mount is in a namespace of its own, and goes with it.
    script = 'mkdir mounted && mount -o loop image mounted || exit 9; cd mounted && exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", SHARED]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    if done.returncode == 9:
        lacks("loop_mount", f"no btrfs can be mounted here: {done.stderr}")
    assert done.stdout.split() == ["[true,", "true,", "true,", "true]"], done.stderr


def sparse(path: Path) -> bytes:
    """Write a file with a hole in its middle and one at its end; return what it holds."""
    with open(path, "wb") as file:
        file.write(b"begin")
        file.seek(HOLE)
        file.write(b"middle")
        file.truncate(3 * HOLE)
    return path.read_bytes()


class Fcntl:
    """The module as `copying` sees it: FICLONE fails with `number`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def ioctl(self, target: int, request: int, source: int) -> int:
        assert request == FICLONE
        raise OSError(self.number, os.strerror(self.number))


class Clones(Fcntl):
    """A file system that shares is stood in for by copying."""

    def ioctl(self, target: int, request: int, source: int) -> int:
        assert request == FICLONE
        os.pwrite(target, os.pread(source, 4 * HOLE, 0), 0)
        return 0


@pytest.mark.parametrize("ranges", [True, False], ids=["copy_file_range", "read and write"])
@pytest.mark.parametrize(
    "number",
    [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EBADF, errno.ETXTBSY],
)
def test_where_nothing_can_be_shared_it_is_copied_with_its_holes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int, ranges: bool
) -> None:
    content = sparse(lab.lower / "file")

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(copying, "fcntl", Fcntl(number))
    if not ranges:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    branch = lab.branch()
    branch.copy_up(b"file")
    assert read(branch, b"file") == content
    if (lab.lower / "file").stat().st_blocks * 512 < HOLE:
        assert branch.stat(b"file").st_blocks * 512 < HOLE, "its holes are holes still"


def test_what_was_shared_is_not_copied_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    content = sparse(lab.lower / "file")

    def never(*_: object) -> int:
        raise AssertionError("the bytes are there already")

    monkeypatch.setattr(copying, "fcntl", Clones(0))
    monkeypatch.setattr(os, "copy_file_range", never)
    branch = lab.branch()
    branch.copy_up(b"file")
    assert read(branch, b"file") == content


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_copy_that_fails_leaves_nothing_and_can_be_tried_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    branch = lab.branch()
    with monkeypatch.context() as patch:
        patch.setattr(copying, "fcntl", Fcntl(number))
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            branch.open(b"file", os.O_RDWR)
        assert caught.value.errno == number
    assert branch.changes() == ()
    assert os.listdir(branch.upper) == os.listdir(os.path.join(branch.path, "work")) == []
    write(branch, b"file", b"new", os.O_TRUNC)
    assert read(branch, b"file") == b"new"
    assert (lab.lower / "file").read_text() == "file"
