"""The section "Bad input" of the issue: a typed error or the kernel's errno, and nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cow_lab import Lab, names, read, write

from sandlock_cow import (
    Branch,
    BranchBusyError,
    BranchError,
    BranchQuotaError,
    BranchStorageError,
    State,
    list_preserved,
)

pytestmark = pytest.mark.usefixtures("leaks")


def refused(action: object) -> int | None:
    assert callable(action)
    try:
        action()
    except OSError as error:
        return error.errno
    return None


def test_a_missing_lower_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BranchStorageError, match="no such file") as caught:
        Branch(str(tmp_path / "missing"), storage=str(tmp_path / "storage"))
    assert caught.value.path == str(tmp_path / "missing")
    assert not (tmp_path / "storage").exists()


def test_a_lower_that_is_a_file_is_refused(lab: Lab) -> None:
    with pytest.raises(BranchStorageError, match="not a directory"):
        Branch(str(lab.lower / "file"), storage=str(lab.storage))


@pytest.mark.parametrize("where", ["lower", "lower/directory/storage", "."])
def test_storage_inside_the_tree_or_the_reverse_is_refused(lab: Lab, where: str) -> None:
    with pytest.raises(BranchStorageError, match="would cover"):
        Branch(str(lab.lower), storage=str(lab.root / where))


def test_storage_reached_through_a_link_into_the_tree_is_refused(lab: Lab) -> None:
    (lab.root / "alias").symlink_to(lab.lower / "directory")
    with pytest.raises(BranchStorageError, match="would cover"):
        Branch(str(lab.lower), storage=str(lab.root / "alias"))


def test_inf06_the_storage_is_private(lab: Lab) -> None:
    branch = lab.branch()
    assert os.stat(branch.path).st_mode & 0o077 == 0
    lab.storage.chmod(0o777)
    with pytest.raises(BranchStorageError, match="written by others"):
        Branch(str(lab.lower), storage=str(lab.storage))


def test_w52_storage_that_cannot_hold_a_branch_is_an_error_and_not_a_run_without_one(lab: Lab) -> None:
    before = lab.fingerprint()
    with pytest.raises((BranchStorageError, OSError)):
        Branch(str(lab.lower), storage="/proc/nope")
    assert lab.fingerprint() == before


def test_a_branch_is_open_once(lab: Lab) -> None:
    branch = lab.branch()
    with pytest.raises(BranchBusyError):
        Branch.resume(branch.path)
    assert list_preserved(str(lab.storage)) == ()
    path = branch.keep()
    script = (
        "import sys; from sandlock_cow import Branch\n"
        "b = Branch.resume(sys.argv[1]); print('open', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"open\n"
    with pytest.raises(BranchBusyError):
        Branch.resume(path)
    other.communicate(b"\n")
    lab.resume(path).discard()


def test_a_kept_branch_comes_back_whole(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"file", b"mine")
    branch.unlink(b"other")
    identity = branch.identity(branch.stat(b"file"))
    path = branch.keep()
    kept = list_preserved(str(lab.storage))
    assert [(entry.path, entry.state) for entry in kept] == [(path, State.KEPT)]
    again = lab.resume(path)
    assert read(again, b"file") == b"mine"
    assert b"other" not in names(again)
    assert again.identity(again.stat(b"file")) == identity
    with pytest.raises(BranchError, match="closed"):
        branch.changes()
    again.commit()
    assert (lab.lower / "file").read_text() == "mine"


def test_a_lower_directory_that_is_another_one_now_is_refused(lab: Lab) -> None:
    path = lab.branch().keep()
    lab.lower.rename(lab.root / "old")
    lab.lower.mkdir()
    with pytest.raises(BranchStorageError, match="is not the directory"):
        Branch.resume(path)


def test_a_folder_that_is_no_branch_is_refused(lab: Lab) -> None:
    folder = lab.root / "folder"
    folder.mkdir(mode=0o700)
    with pytest.raises(BranchStorageError, match="holds no branch"):
        Branch.resume(str(folder))
    (folder / "branch.json").write_text("{}")
    with pytest.raises(BranchStorageError, match="holds no branch"):
        Branch.resume(str(folder))


def test_storage_on_another_file_system_works(lab: Lab) -> None:
    storage = Path(f"/dev/shm/cow-test-{os.getpid()}")
    assert os.stat("/dev/shm").st_dev != lab.lower.stat().st_dev
    try:
        with Branch(str(lab.lower), storage=str(storage)) as branch:
            write(branch, b"file", b"+", os.O_APPEND)
            branch.rename(b"directory", b"moved")
            made = branch.identity(branch.stat(b"moved"))
            assert made[0] == lab.lower.stat().st_dev
            branch.commit()
        assert (lab.lower / "file").read_text() == "file+"
        assert (lab.lower / "moved" / "inner" / "two").read_text() == "two"
    finally:
        os.rmdir(storage)


def test_an_unreadable_file_cannot_be_copied_up_and_nothing_changes(lab: Lab, as_user: object) -> None:
    (lab.lower / "other").chmod(0o200)
    branch = lab.branch()
    if os.geteuid() == 0:
        write(branch, b"other", b"+", os.O_APPEND)
        return
    assert refused(lambda: branch.open(b"other", os.O_RDWR)) == errno.EACCES
    assert refused(lambda: branch.chmod(b"other", 0o600)) == errno.EACCES
    assert branch.changes() == ()


@pytest.mark.parametrize("path", [b"/file", b"file/", b"a//b", b".", b"..", b"a/../b", b"a\0b", b"directory/."])
def test_fs03_only_plain_components_are_paths(lab: Lab, path: bytes) -> None:
    with pytest.raises(ValueError, match="plain components"):
        lab.branch().lookup(path)


def test_fs24_long_names_and_paths_past_path_max(lab: Lab) -> None:
    branch = lab.branch()
    assert refused(lambda: branch.mkdir(b"x" * 256)) == errno.ENAMETOOLONG
    name = b"d" * 250
    deep = name
    for _ in range(40):
        branch.mkdir(deep, 0o755)
        deep += b"/" + name
    write(branch, deep, b"deep")
    assert len(deep) > 4096
    assert read(branch, deep) == b"deep"
    assert len(branch.changes()) == 41
    before = set(os.listdir(lab.lower))
    branch.commit()
    assert len(set(os.listdir(lab.lower)) - before) == 1
    with lab.branch() as again:
        assert read(again, deep) == b"deep"
        for depth in range(41, 0, -1):
            path = b"/".join([name] * depth)
            (again.unlink if depth == 41 else again.rmdir)(path)
        again.commit()
    assert set(os.listdir(lab.lower)) == before


def test_fs23_ten_thousand_nested_directories_can_be_discarded(lab: Lab) -> None:
    branch = lab.branch()
    upper = os.open(branch.upper, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=upper)
        further = os.open("d", os.O_RDONLY, dir_fd=upper)
        os.close(upper)
        upper = further
    os.close(upper)
    branch.discard()
    assert os.listdir(lab.storage) == []


def test_fs01_links_are_never_followed(lab: Lab) -> None:
    secret = lab.root / "secret"
    secret.mkdir()
    (secret / "x").write_text("secret")
    (lab.lower / "out").symlink_to(secret)
    branch = lab.branch()
    branch.symlink(os.fsencode(secret), b"out2")
    for link in (b"out", b"out2"):
        assert refused(lambda link=link: branch.open(link + b"/x", os.O_RDONLY)) == errno.ENOTDIR
        assert refused(lambda link=link: branch.open(link, os.O_RDONLY)) == errno.ELOOP
        assert refused(lambda link=link: branch.open(link + b"/new", os.O_WRONLY | os.O_CREAT)) == errno.ENOTDIR
    assert os.listdir(secret) == ["x"]
    assert read(branch, b"file") == b"file", "an ordinary path works"


def test_fs20_marks_cannot_be_forged(lab: Lab) -> None:
    branch = lab.branch()
    branch.setxattr(b"directory", b"user.overlay.opaque", b"y")
    branch.setxattr(b"file", b"user.overlay.whiteout", b"y")
    assert branch.getxattr(b"directory", b"user.overlay.opaque") == b"y"
    assert branch.listxattr(b"file") == (b"user.overlay.whiteout",)
    assert b"one" in names(branch, b"directory"), "the lower directory still shows through"
    assert refused(lambda: branch.mknod(b"w", 0o20000, 0)) == errno.EPERM
    assert refused(lambda: branch.getxattr(b"other", b"user.overlay.sandlock.identity")) == errno.ENODATA
    branch.copy_up(b"other")
    assert refused(lambda: branch.getxattr(b"other", b"user.overlay.sandlock.identity")) == errno.ENODATA
    path = branch.keep()
    again = lab.resume(path)
    assert b"one" in names(again, b"directory")
    assert read(again, b"file") == b"file"


def test_fs09_an_unnamed_file_can_be_named_and_a_foreign_one_cannot(lab: Lab) -> None:
    branch = lab.branch()
    fd = branch.open(b"directory", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"unnamed")
    branch.link_fd(fd, b"directory/named")
    assert read(branch, b"directory/named") == b"unnamed"
    os.close(fd)
    foreign = os.open(lab.lower / "file", os.O_RDWR)
    assert refused(lambda: branch.link_fd(foreign, b"stolen")) == errno.EXDEV
    os.close(foreign)
    assert b"stolen" not in names(branch)


def test_w53_a_fifo_is_passed_through_and_preparing_its_open_does_not_block(lab: Lab) -> None:
    branch = lab.branch()
    ready = branch.prepare_open(b"fifo", os.O_WRONLY)
    assert (ready.fd, ready.name) == (-1, b"fifo")
    assert refused(lambda: branch.open(b"fifo", os.O_WRONLY | os.O_NONBLOCK)) == errno.ENXIO
    assert branch.changes() == ()


def test_fs16_a_writable_open_is_of_the_copy(lab: Lab) -> None:
    import mmap

    branch = lab.branch()
    fd = branch.open(b"file", os.O_RDWR)
    with mmap.mmap(fd, 4) as shared:
        shared[:] = b"EVIL"
    os.close(fd)
    assert (lab.lower / "file").read_text() == "file"
    assert read(branch, b"file") == b"EVIL"


def test_w55_the_quota_counts_bytes_written_through_open_files(lab: Lab) -> None:
    branch = lab.branch(quota=1 << 20)
    fd = branch.open(b"big", os.O_WRONLY | os.O_CREAT, 0o600)
    branch.reserve(4096)
    os.write(fd, b"x" * (2 << 20))
    assert branch.usage().allocated > 2 << 20
    with pytest.raises(BranchQuotaError) as caught:
        branch.reserve(1)
    assert caught.value.errno == errno.ENOSPC
    assert refused(lambda: branch.mkdir(b"more")) == errno.ENOSPC
    assert refused(lambda: branch.open(b"file", os.O_WRONLY)) == errno.ENOSPC
    branch.unlink(b"big")
    assert refused(lambda: branch.mkdir(b"more")) == errno.ENOSPC, "it is still open, and still there"
    os.close(fd)
    branch.mkdir(b"more")
    assert branch.usage() == branch.usage(exact=True)


def test_fs23_many_small_files_reach_the_quota(lab: Lab) -> None:
    branch = lab.branch(quota=256 * 1024)
    made = 0
    with pytest.raises(BranchQuotaError):
        for made in range(10_000):
            branch.mknod(b"%d" % made, 0o644)
    assert 100 < made < 1000
    with pytest.raises(ValueError, match="quota"):
        lab.branch(quota=-1)


def test_a_sparse_file_costs_what_it_holds(lab: Lab) -> None:
    branch = lab.branch(quota=1 << 20)
    branch.mknod(b"sparse", 0o644)
    branch.truncate(b"sparse", 1 << 40)
    assert branch.usage().allocated < 1 << 18


@pytest.mark.needs("root")  # only root may mount a small file system to fill
def test_a_full_disk_is_enospc_and_loses_nothing(lab: Lab) -> None:
    script = """
import os, sys
from sandlock_cow import Branch
lower, small = sys.argv[1:]
branch = Branch(lower, storage=small + "/storage")
fd = branch.open(b"kept", os.O_WRONLY | os.O_CREAT, 0o644); os.write(fd, b"kept"); os.close(fd)
open(lower + "/large", "wb").write(b"x" * (4 << 20))
try:
    branch.open(b"large", os.O_WRONLY)
    print("no error")
except OSError as error:
    print(error.errno)
print(os.listdir(branch.path + "/work"), [c.path for c in branch.changes()])
branch.commit()
print(open(lower + "/kept").read(), os.path.getsize(lower + "/large"))
"""
    small = lab.root / "small"
    small.mkdir()
    done = subprocess.run(
        [
            "unshare", "-m", "--propagation", "private", "sh", "-c",
            'mount -t tmpfs -o size=1m,mode=700 tmpfs "$2" && exec "$3" -c "$4" "$1" "$2"',
            "sh", str(lab.lower), str(small), sys.executable, script,
        ],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["28", "[] ['kept']", "kept 4194304"], done.stderr


def test_fs23_what_lost_its_name_counts_while_somebody_reads_it(lab: Lab) -> None:
    """Else a program keeps quota after quota: write, open for reading, close, remove, again."""
    branch = lab.branch(quota=1 << 20)
    fd = branch.open(b"big", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, b"x" * (3 << 18))
    held = branch.open(b"big", os.O_RDONLY)
    os.close(fd)
    branch.usage()
    branch.unlink(b"big")
    assert branch.usage().allocated > 3 << 18
    with pytest.raises(BranchQuotaError):
        branch.reserve(1 << 19)
    os.close(held)
    branch.reserve(1 << 19)
    assert branch.usage() == branch.usage(exact=True)


def test_fs23_the_same_for_what_a_rename_replaces(lab: Lab) -> None:
    branch = lab.branch(quota=1 << 20)
    for name in (b"big", b"other"):
        os.close(branch.open(name, os.O_WRONLY | os.O_CREAT, 0o600))
    fd = branch.open(b"big", os.O_WRONLY)
    os.write(fd, b"x" * (3 << 18))
    held = branch.open(b"big", os.O_RDONLY)
    os.close(fd)
    branch.usage()
    branch.rename(b"other", b"big")
    with pytest.raises(BranchQuotaError):
        branch.reserve(1 << 19)
    os.close(held)
    branch.reserve(1 << 19)


def test_fs23_files_that_nobody_may_read_take_a_bounded_number_of_fds(lab: Lab) -> None:
    """Nobody can be asked who has such a file open; so many and no more are watched."""
    branch = lab.branch(quota=1 << 30)
    before = len(os.listdir("/proc/self/fd"))
    error: int | None = 0
    for number in range(700):
        try:
            os.close(branch.open(b"%d" % number, os.O_WRONLY | os.O_CREAT, 0))
            branch.unlink(b"%d" % number)
        except OSError as refusal:
            error = refusal.errno
            break
    assert error == (0 if os.geteuid() == 0 else errno.ENFILE)
    assert len(os.listdir("/proc/self/fd")) - before < 600


def test_fs23_the_holes_of_a_mapped_file_count(lab: Lab) -> None:
    branch = lab.branch(quota=1 << 20)
    fd = branch.open(b"big", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 2 << 20)
    with pytest.raises(BranchQuotaError):
        branch.books.map(fd)
    os.ftruncate(fd, 3 << 18)
    assert branch.books.holds(os.fstat(fd)) and not branch.books.is_mapped(os.fstat(fd))
    branch.books.map(fd)
    assert branch.books.is_mapped(os.fstat(fd))
    with pytest.raises(BranchQuotaError):
        branch.reserve(1 << 19)
    os.close(fd)
    assert branch.usage().allocated > 3 << 18, "nothing tells yet that nobody has it"
    branch.unlink(b"big")
    branch.reserve(1 << 19)
    assert not branch.books.holds(os.stat(lab.lower / "file"))


def test_without_a_home_no_folder_of_the_current_directory_is_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` that stays `~` is a name that a program can make where it works."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where HOME is unset and no passwd entry is there
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lower").mkdir()
    for action in (list_preserved, lambda: Branch("lower")):
        with pytest.raises(BranchStorageError, match="set HOME or XDG_STATE_HOME"):
            action()
    assert os.listdir(tmp_path) == ["lower"]
