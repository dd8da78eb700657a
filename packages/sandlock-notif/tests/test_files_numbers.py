"""A file of a branch keeps its device and inode number when it is copied up, whoever asks, and shares it with nobody."""

# ruff: noqa: E501  # calls in the text of programs

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from file_calls import program
from supervision import Outcome, supervise
from test_files_cow import base
from test_files_denied import READ

from sandlock_cow.branch import Branch
from sandlock_notif import supervisor
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]
_ = base  # the fixture

# Tells the numbers of a name by every call that tells them: all have to agree.
CODE = r"""
import struct
os.chdir(sys.argv[2])
def told(name):
    found = set()
    def add(call, *arguments):
        buf.raw = bytes(512)
        if call(*arguments)[0] < 0: return
        if arguments[0] == "statx": found.add((os.makedev(*struct.unpack_from("II", buf, 136)), struct.unpack_from("Q", buf, 32)[0]))
        else: found.add(struct.unpack_from("QQ", buf))
    path = os.fsencode(name)
    add(call, "newfstatat", -100, path, buf, 0x100); add(call, "statx", -100, path, 0x100, 0x7ff, buf)
    if "lstat" in numbers: add(call, "lstat", path, buf)
    fds = [] if os.path.islink(name) else [os.open(name, os.O_RDONLY | os.O_NONBLOCK)]
    for fd in fds:
        add(call, "fstat", fd, buf); add(call, "newfstatat", fd, b"", buf, 0x1000); add(call, "statx", fd, b"", 0x1000, 0x7ff, buf)
        add(call, "newfstatat", -100, b"/proc/self/fd/%d" % fd, buf, 0)
        os.close(fd)
    entries = {e.name: e.inode() for e in os.scandir(os.path.dirname(name) or ".")}
    inodes = {inode for _, inode in found} | {entries[os.path.basename(name)]}
    assert len(found) == len(inodes) == 1, (name, found, inodes)
    return found.pop()
NAMES = ["file", "dir", "dir/inside", "folderlink", "pair", "other/pair", "shared", "."]
"""
BEFORE_AND_AFTER = (
    CODE
    + r"""
NAMES.remove(".")
before = {name: told(name) for name in NAMES}
held = {name: os.open(name, os.O_RDONLY) for name in ("file", "pair", "dir")}
open("file", "a").write("x"); os.utime("dir", (1, 2)); os.chmod("dir/inside", 0o700); open("dir/inside/new", "w").close()
os.utime("folderlink", (1, 2), follow_symlinks=False); os.link("pair", "third"); os.chmod("shared", 0o600)
after = {name: told(name) for name in NAMES}
same = [name for name in NAMES if before[name] == after[name]]
print(json.dumps(same))
print(before["pair"] == before["other/pair"] == told("third"), all((os.fstat(fd).st_dev, os.fstat(fd).st_ino) == before[n] for n, fd in held.items()))
os.rename("file", "moved"); os.rename("dir", "dir2"); os.rename("pair", "fourth")
print(told("moved") == before["file"], told("dir2") == before["dir"], told("dir2/inside") == before["dir/inside"], told("fourth") == before["pair"])
os.unlink("moved"); open("moved", "w").close(); os.mkdir("dir")
print(told("moved") not in before.values(), told("dir") not in before.values(), told("dir2/inside/new") not in before.values())
everything = {}
for root, folders, files in os.walk("."):
    for name in folders + files:
        everything.setdefault(told(os.path.join(root, name)), []).append(os.path.join(root, name))
print(sorted(sorted(names) for names in everything.values() if len(names) > 1))
print(after["shared"][1] != os.stat(sys.argv[3]).st_ino, before["shared"][1] == os.stat(sys.argv[3]).st_ino)
"""
)


def fill(base: Path) -> None:
    """Files with several names: two inside the tree, and one inside and one outside of it."""
    (base / "tree/pair").write_text("pair")
    (base / "tree/other/pair").hardlink_to(base / "tree/pair")
    (base / "tree/shared").write_text("shared")
    (base / "outside").hardlink_to(base / "tree/shared")


def run(base: Path, argv: list[str], storage: str = "", timeout_s: float = 60.0) -> Outcome:
    with Branch(str(base / "tree"), storage=storage or str(base / "storage")) as branch:
        outcome = supervise(
            argv, FilesTable(View(branches=[branch])), grants=[(b"/", READ)], timeout_s=timeout_s
        )  # fmt: skip
        branch.discard()
    assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
    return outcome


@pytest.mark.parametrize("storage", ["beside", "elsewhere"])
@pytest.mark.parametrize("asked", ["C", "Python"])
def test_every_call_tells_the_numbers_that_were_told_before_the_copy(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, storage: str
) -> None:
    fill(base)
    if asked == "Python":
        monkeypatch.setattr(supervisor, "shortcut_of", lambda *_: None)
    folder = f"/dev/shm/{tmp_path.parent.name}-{tmp_path.name}-{os.getpid()}" if storage == "elsewhere" else ""
    if folder and os.stat("/dev/shm").st_dev == base.stat().st_dev:
        pytest.skip("one file system")
    try:
        outcome = run(base, program(BEFORE_AND_AFTER, str(base / "tree"), str(base / "outside")), folder)
    finally:
        if folder:
            os.rmdir(folder)
    kept = ["file", "dir", "dir/inside", "folderlink", "pair", "other/pair"]
    assert outcome.output.decode().splitlines() == [
        str(kept).replace("'", '"'),  # not the file that has another name outside, which stays what it is
        "True True",
        "True True True True",
        "True True True",
        "[['./fourth', './other/pair', './third']]",
        "True True",
    ]
    assert outcome.supervisor is not None
    assert (outcome.supervisor.shortly > 20) == (asked == "C")


def test_no_program_copies_or_forges_the_marks_of_a_branch(base: Path) -> None:
    code = """
os.chdir(sys.argv[2])
open("file", "a").close()
mark = "user.overlay.sandlock.identity"
fd, new = os.open("file", os.O_RDONLY), os.open("new", os.O_CREAT | os.O_RDWR)
print(os.listxattr(fd), os.listxattr("file"), os.listxattr(new))
try: print(os.getxattr(fd, mark))
except OSError as error: print(errno.errorcode[error.errno])
try: os.setxattr(new, mark, b"%d" % os.fstat(fd).st_ino); os.setxattr(os.open("dir", 0), "user.overlay.opaque", b"y")
except OSError as error: print(error)
print(os.listxattr(new), os.getxattr(new, mark) == b"%d" % os.fstat(fd).st_ino, os.listdir("dir"))
os.setxattr(new, "user.plain", b"value"); print(os.getxattr(new, "user.plain"), os.fstat(new).st_ino != os.fstat(fd).st_ino)
os.removexattr(new, mark); print(os.listxattr(new), os.listxattr(0))
"""
    argv = program(code, str(base / "tree"))
    with Branch(str(base / "tree"), storage=str(base / "storage")) as branch:
        outcome = supervise(argv, FilesTable(View(branches=[branch])), grants=[(b"/", READ)])
        folder = branch.keep()
    assert outcome.output.decode().splitlines() == [
        "[] [] []",
        "ENODATA",
        "['user.overlay.sandlock.identity'] True ['inside']",
        "b'value' True",
        "['user.plain'] []",
    ]
    with Branch.resume(folder) as branch:
        told = [branch.identity(branch.stat(name)) for name in (b"file", b"new")]
        assert told[0] == ((base / "tree/file").stat().st_dev, (base / "tree/file").stat().st_ino)
        assert told[1] != told[0]
        branch.discard()


@pytest.mark.parametrize("asked", ["C", "Python"])
def test_an_fd_of_what_was_in_a_removed_directory_shows_and_forges_no_mark_and_leads_nowhere(
    base: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    if asked == "Python":
        monkeypatch.setattr(supervisor, "shortcut_of", lambda *_: None)
    code = """
os.chdir(sys.argv[2])
mark = "user.overlay.sandlock.identity"
held = os.open("dir/inside/held", os.O_RDWR); os.link("dir/inside/held", "kept")
os.mkdir("new"); folders = [os.open(name, os.O_RDONLY) for name in ("dir", "dir/inside", "new")]
print([os.stat("..", dir_fd=fd).st_ino == os.stat(name).st_ino for fd, name in zip(folders, (".", "dir", "."))])
os.unlink("dir/inside/held"); os.rmdir("dir/inside"); os.rmdir("new")
for turn in (1, 2):
    print(os.fstat(held).st_ino == os.stat("kept").st_ino, os.listxattr(held), os.listxattr("kept"))
    found = []
    for fd in folders[1:]:
        for path in ("..", "../..", "./../../branch.json", "../../upper/file"):
            for call in (os.stat, lambda p, dir_fd: os.open(p, os.O_RDONLY, dir_fd=dir_fd)):
                try: found.append((path, call(path, dir_fd=fd)))
                except OSError as error: assert error.errno == errno.ENOENT, error
            try: found.append(os.stat(f"/proc/self/fd/{fd}/{path}"))
            except OSError as error: assert error.errno == errno.ENOENT, error
    os.fchdir(folders[2])
    try: os.chdir(".."); found.append("..")
    except OSError as error: assert error.errno == errno.ENOENT, error
    os.chdir(sys.argv[2]); os.utime("kept")
    print(found, os.stat("..", dir_fd=folders[0]).st_ino == os.stat(".").st_ino)
os.setxattr(held, mark, b"%d" % os.stat("file").st_ino); print(os.listxattr(held) == os.listxattr("kept") == [mark])
"""
    (base / "tree/dir/inside/held").write_text("held")
    argv = program(code, str(base / "tree"))
    with Branch(str(base / "tree"), storage=str(base / "storage")) as branch:
        outcome = supervise(argv, FilesTable(View(branches=[branch])), grants=[(b"/", READ)])
        folder = branch.keep()
    lines = ["True [] []", "[] True"]
    assert outcome.output.decode().splitlines() == ["[True, True, True]", *lines, *lines, "True"]
    with Branch.resume(folder) as branch:
        told = [branch.identity(branch.stat(name)) for name in (b"file", b"kept")]
        assert told[0] != told[1]
        branch.discard()


# One process exchanges two files of different sizes, copies others up, and makes and removes some; another one asks for
# the numbers of the two, by path and by fd: prints tries, how often a number was told of the other file, and how often
# each of the two was seen (the control).
FLIPS = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct stat one, other;
static int wrong, seen[2];

static void judge(const struct stat *found)
{
    const struct stat *meant = found->st_size == one.st_size ? &one : &other;
    seen[meant == &other]++;
    wrong += found->st_ino != meant->st_ino || found->st_dev != meant->st_dev;
}

static void change(void)
{
    char name[32];
    for (unsigned n = 0;; n++) {
        syscall(SYS_renameat2, AT_FDCWD, "one", AT_FDCWD, "second", 2);
        snprintf(name, sizeof name, "many/%u", n % 300);
        if (n < 300)
            chmod(name, 0600); /* copied up */
        else {
            unlink(name);
            close(open(name, O_CREAT | O_WRONLY, 0600)); /* gets a number that was used */
        }
    }
}

static int shared;
static volatile int stop;

static void *swap(void *unused)
{
    int fds[2] = {open("one", O_RDONLY), open("second", O_RDONLY)};
    for (unsigned n = 0; !stop; n++)
        dup2(fds[n & 1], shared);
    return 0;
}

int main(int argc, char **argv)
{
    int tries = atoi(argv[2]), done = 0, by_fd = !strcmp(argv[3], "fd");
    struct timespec start, now;
    struct stat found;
    pthread_t thread;
    pid_t child = 0;
    if (chdir(argv[1]) || lstat("one", &one) || lstat("second", &other))
        return 1;
    chmod("one", 0600);
    chmod("second", 0600);
    shared = open("one", O_RDONLY);
    if (by_fd)
        pthread_create(&thread, 0, swap, 0);
    else if ((child = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        change();
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (; done < tries; done++) {
        if (by_fd) {
            if (syscall(SYS_fstat, shared, &found) == 0)
                judge(&found);
            if (syscall(SYS_newfstatat, shared, "", &found, AT_EMPTY_PATH) == 0)
                judge(&found);
        } else {
            if (syscall(SYS_newfstatat, AT_FDCWD, done & 1 ? "one" : "second", &found, 0) == 0)
                judge(&found);
            int fd = open("one", O_RDONLY);
            if (fd >= 0 && syscall(SYS_fstat, fd, &found) == 0)
                judge(&found);
            close(fd);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec > 5)
            break;
    }
    stop = 1;
    if (by_fd)
        pthread_join(thread, 0);
    else
        kill(child, SIGKILL);
    printf("%d %d %d %d\n", done, wrong, seen[0], seen[1]);
    return 0;
}
"""


@pytest.mark.parametrize("mode", ["path", "fd"])
def test_no_file_is_told_the_number_of_another_while_names_flip(
    base: Path, compile_c: Callable[..., Path], mode: str
) -> None:
    tree = base / "tree"
    (tree / "one").write_text("one")
    (tree / "second").write_text("the other")
    (tree / "many").mkdir()
    for number in range(300):
        (tree / f"many/{number}").write_text("x")
    outcome = run(base, [str(compile_c(FLIPS)), str(tree), "1500" if mode == "path" else "4000", mode])
    done, wrong, first, second = map(int, outcome.output.split())
    assert done > 100
    assert wrong == 0
    assert min(first, second) > 0
