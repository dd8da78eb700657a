"""The view that a supervisor serves: no name, race or descriptor leads out of it, and it answers as a real root does.

Every attack is made bare too, where it wins: what it looks for can be found, and the flipping does flip.
"""

# ruff: noqa: E501  # tables of calls in the text of programs

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from sandlock import CommandNotRunnableError, Result, Sandbox
from sandlock_notif.fs.loader import Loaders, interpreter_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.needs("landlock", level=3)]

TRIES = 10_000  # by root, and as many by an ordinary user: 20,000 of each
PYTHON = "/usr/bin/python3"

# Looks for the inode argv[3] by a path that somebody flips, argv[2] times: prints tries, wins and how often another was
# found, which tells that the flipping reaches the path.
RACES = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char *path; /* shared, so that a process can flip it too */
static const char *good, *bad;

static void flip_memory(void)
{
    size_t size = strlen(good) > strlen(bad) ? strlen(good) + 1 : strlen(bad) + 1;
    char one[4096] = "", other[4096] = "";
    strcpy(one, good);
    strcpy(other, bad);
    for (unsigned n = 0;; n++)
        memcpy(path, n & 1 ? one : other, size);
}

static void flip_names(const char *one, const char *other)
{
    for (;;)
        syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2);
}

int main(int argc, char **argv)
{
    const char *mode = argv[1];
    int tries = atoi(argv[2]), wins = 0, controls = 0, done = 0;
    unsigned long inode = strtoul(argv[3], 0, 10);
    good = argv[5];
    bad = argv[6];
    path = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(path, good);
    if (argc < 7 || chdir(argv[4]) != 0)
        return 5;
    pid_t child = fork();
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!strcmp(mode, "shared"))
            flip_memory();
        else
            flip_names("one", "two");
    }
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (; done < tries; done++) {
        struct stat found;
        if (fstatat(AT_FDCWD, path, &found, 0) == 0) {
            wins += found.st_ino == inode;
            controls += found.st_ino != inode;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec > 60)
            break;
    }
    kill(child, SIGKILL);
    printf("%d %d %d\n", done, wins, controls);
    return 0;
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with places for mounts, beside a secret."""
    return make_root(tmp_path)


def make_root(tmp_path: Path) -> Path:
    for folder in ("usr", "proc", "tmp", "dev", "work/deep/a/b", "work/flat", "mnt", "ro"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tmp_path / "root" / name).symlink_to(f"usr/{name}")
    (tmp_path / "root/dev/null").touch()
    (tmp_path / "secret").write_text("outside\n")
    (tmp_path / "root/work/ok").write_text("fine\n")
    for name in ("rw", "read"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "root"


def run(root: Path, argv: list[str], *, pass_fds: tuple[int, ...] = (), **fields: Any) -> Result:
    base = root.parent
    fields = {
        "namespaces": "off", "fs_readable": ["/"], "fs_writable": ["/work"], "chroot": str(root),
        "fs_mount": {"/mnt": str(base / "rw")}, "fs_mount_ro": {"/usr": "/usr", "/ro": str(base / "read")}, **fields,
    }  # fmt: skip
    return Sandbox(**fields).run(argv, timeout=100, pass_fds=pass_fds)


def ups(root: Path) -> str:
    """So many `..` that they lead to the host's root from anywhere."""
    return "../" * (len(root.parts) + 4)


@pytest.mark.parametrize("mode", ["shared", "link", "parent"])
def test_not_01_not_02_fs_02_no_flip_leads_out_of_the_root(
    root: Path, mode: str, compile_c: Callable[..., Path]
) -> None:
    secret = root.parent / "secret"
    work = root / "work"
    program = compile_c(RACES, "-static")
    (work / "program").write_bytes(program.read_bytes())
    (work / "program").chmod(0o755)
    good, bad = "ok", ups(root) + str(secret)[1:]
    if mode == "link":
        (work / "one").symlink_to("ok")
        (work / "two").symlink_to(bad)
        good = bad = "one"
    elif mode == "parent":  # by the way up from one folder the secret is met, and from the other one a harmless file
        (work / "deep/a/b/one").mkdir()
        (work / "one").mkdir()
        (work / "two").symlink_to("deep/a/b/one")
        (work / "deep/secret").write_text("fine")
        good = bad = "one/../../../secret"
    inode = str(secret.stat().st_ino)
    bare = subprocess.run([program, mode, "200000", inode, work, good, bad], capture_output=True, check=True).stdout
    assert int(bare.split()[1]) > 0
    result = run(root, ["/work/program", mode, str(TRIES), inode, "/work", good, bad])
    assert result.exit_code == 0, result
    done, wins, controls = map(int, result.stdout.split())
    assert (done, wins) == (TRIES, 0)
    assert controls > 0


# Every door out of a root that has a name: prints those behind which the secret is.
DOORS = r"""
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
inode, secret, ups, fd, owner, work = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6]
os.chdir(work)
tail = ups + secret[1:]
deep = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
def found(where, at=None):
    return os.stat(where, dir_fd=at).st_ino == inode
def opened(where, at=None, flags=0):
    got = os.open(where, flags, dir_fd=at)
    try:
        return os.fstat(got).st_ino == inode
    finally:
        os.close(got)
def resolved(resolve, path, at):
    how = struct.pack("=QQQ", os.O_RDONLY, 0, resolve)
    got = libc.syscall(437, at, os.fsencode(path), how, 24)
    if got < 0:
        raise OSError(ctypes.get_errno(), "openat2")
    try:
        return os.fstat(got).st_ino == inode
    finally:
        os.close(got)
def linked(path, flags=0, at=-100):
    if libc.syscall(265, at, os.fsencode(path), -100, b"linked", flags) < 0:
        raise OSError(ctypes.get_errno(), "linkat")
    try:
        return os.lstat("linked").st_ino == inode
    finally:
        os.unlink("linked")
def link_of(target):
    os.symlink(target, "planted")
    try:
        return found("planted")
    finally:
        os.unlink("planted")
def executed():
    import subprocess
    return b"outside" in subprocess.run(["/bin/cat", secret], capture_output=True).stdout
doors = {
    "absolute": lambda: found(secret), "ups": lambda: found(tail), "open ups": lambda: opened(tail),
    "absolute ignores dirfd": lambda: found(secret, deep), "ups of dirfd": lambda: found(tail, deep),
    "handle": lambda: opened(secret, flags=os.O_PATH), "handle of ups": lambda: opened(tail, flags=os.O_PATH),
    "root link": lambda: found("/proc/self/root" + secret), "root link ups": lambda: found("/proc/self/root/" + tail),
    "thread root": lambda: found("/proc/thread-self/root/" + tail), "cwd link": lambda: found("/proc/self/cwd/" + tail),
    "fd link": lambda: found(f"/proc/self/fd/{deep}/{tail}"), "dev fd": lambda: found(f"/dev/fd/{deep}/{tail}"),
    "owner root": lambda: found(f"/proc/{owner}/root{secret}"), "owner cwd": lambda: found(f"/proc/{owner}/cwd/{tail}"),
    "init root": lambda: found(f"/proc/1/root{secret}"), "task root": lambda: found(f"/proc/self/task/{os.getpid()}/root{secret}"),
    "passed folder": lambda: found(os.path.basename(secret), fd), "passed ups": lambda: opened(tail, fd),
    "passed link": lambda: found(f"/proc/self/fd/{fd}/{os.path.basename(secret)}"),
    "beneath": lambda: resolved(8, tail, deep), "in root": lambda: resolved(16, tail, deep), "no links": lambda: resolved(4, tail, deep),
    "no magic": lambda: resolved(2, tail, deep), "no xdev": lambda: resolved(1, tail, deep), "passed in root": lambda: resolved(16, os.path.basename(secret), fd),
    "planted": lambda: link_of(secret), "planted ups": lambda: link_of(tail), "planted root": lambda: link_of("/proc/self/root/" + tail),
    "linked": lambda: linked(secret), "linked ups": lambda: linked(tail, 0x400),
    "chdir": lambda: (os.chdir(ups), found(secret[1:]))[1], "fchdir": lambda: (os.fchdir(fd), found(os.path.basename(secret)))[1],
    "chdir passed": lambda: (os.chdir(f"/proc/self/fd/{fd}"), found(os.path.basename(secret)))[1],
    "executed": executed, "mount up": lambda: found("/mnt/../" + tail), "mount passed": lambda: found("/mnt/" + tail),
}
for name, door in doors.items():
    try:
        if door():
            print(name)
    except OSError:
        pass
    os.chdir("/"); os.chdir(work)
"""


def test_fs_04_fs_12_not_24_no_door_leads_out_of_the_root(root: Path) -> None:
    secret = root.parent / "secret"
    folder = os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        words = [str(secret.stat().st_ino), str(secret), ups(root), str(folder), str(os.getpid())]
        argv = [PYTHON, "-c", DOORS, *words]
        bare = subprocess.run([*argv, str(root / "work")], capture_output=True, check=True, pass_fds=[folder])
        assert len(bare.stdout.splitlines()) > 25, bare.stdout.decode()
        result = run(root, [*argv, "/work"], pass_fds=(folder,))
    finally:
        os.close(folder)
    assert result.exit_code == 0, result
    assert result.stdout.decode().splitlines() == []


def test_fs_13_the_loader_of_the_root_runs_and_not_the_hosts(root: Path) -> None:
    """A program asks for a loader that only the root has: the kernel, which looks on the host, would not run it."""
    (root / "lib").unlink()
    (root / "lib").mkdir()
    echo, loaders = os.open("/bin/echo", os.O_RDONLY), Loaders()
    found = interpreter_of(echo)
    assert found is not None
    loader, header = found
    changed = loaders.copy(echo, header, b"/lib/own-loader.so", b"/work/program")
    (root / "work/program").write_bytes(os.pread(changed, 1 << 24, 0))
    (root / "work/program").chmod(0o755)
    for fd in (echo, changed):
        os.close(fd)
    loaders.close()
    libraries = next(Path("/usr/lib").glob("*-linux-gnu*/libc.so.6")).parent
    env = {"LD_LIBRARY_PATH": str(libraries)}
    with pytest.raises(CommandNotRunnableError, match="interpreter"):
        run(root, ["/work/program", "ran"], env=env)
    own = root / "lib/own-loader.so"
    own.write_bytes(Path(os.fsdecode(loader)).read_bytes())
    own.chmod(0o755)
    assert run(root, ["/work/program", "ran"], env=env).stdout == b"ran\n"
    with pytest.raises(CommandNotRunnableError):  # the same inside and out: the loader is judged as any other file
        run(root, ["/work/program", "ran"], env=env, fs_denied=["/lib/own-loader.so"])


CALLS = st.sampled_from(
    ["mkdir", "rmdir", "unlink", "open", "create", "stat", "readlink", "listdir", "chdir", "truncate"]
)
PAIRS = st.sampled_from(["rename", "link", "symlink"])
NAMES = st.sampled_from(["a", "b", "..", ".", "d", "l", "mnt", "file", "ok", "work", "deep", "flat"])
PATHS = st.builds(
    lambda begin, names, end: begin + "/".join(names) + end,
    st.sampled_from(["", "/", "/work/", "/mnt/", "../", "/proc/self/cwd/", "/proc/self/root/", "//"]),
    st.lists(NAMES, min_size=1, max_size=3),
    st.sampled_from(["", "", "", "/", "/."]),
)
STEPS = st.lists(
    st.one_of(st.tuples(CALLS, PATHS), st.tuples(PAIRS, PATHS, PATHS)), min_size=10, max_size=60
)  # fmt: skip

# Makes the calls of argv[1] and tells what each answered, then all that is there.
PLAY = r"""
import errno, json, os, sys
os.umask(0o22)
os.chdir("/work")
def opened(path, flags=os.O_RDONLY):
    fd = os.open(path, flags, 0o640)
    try:
        if flags & os.O_CREAT:
            os.write(fd, path.encode())
        return oct(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
def told(path):
    found = os.lstat(path)
    return oct(found.st_mode), found.st_nlink if not os.path.isdir(path) else 0, found.st_size if os.path.isfile(path) else 0
def listed(path):
    return sorted(os.listdir(path)) if "proc" not in os.path.realpath(path) else None
calls = {
    "mkdir": os.mkdir, "rmdir": os.rmdir, "unlink": os.unlink, "open": opened, "stat": told, "readlink": os.readlink, "listdir": listed,
    "create": lambda path: opened(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), "truncate": lambda path: os.truncate(path, 3),
    "chdir": lambda path: (os.chdir(path), os.getcwd())[1], "rename": os.rename, "link": os.link, "symlink": os.symlink,
}
for call, *paths in json.loads(sys.argv[1]):
    try:
        answer = calls[call](*paths)
    except OSError as error:
        answer = errno.errorcode[error.errno]
    print(call, paths, answer)
for top in ("/work", "/mnt"):
    for folder, folders, files in sorted(os.walk(top)):
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            print(path, told(path), os.path.isfile(path) and open(path).read())
"""


# A failure is not made smaller here, which takes minutes: `phases` without `generate` alone does that.
@pytest.mark.needs("mount_namespace")
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(steps=STEPS)
@example(
    steps=[("link", "/proc/self/root/.", "/mnt/."), ("rmdir", "/mnt/./"), ("unlink", "../mnt"), ("rmdir", "/work/..")]
)
def test_a_served_root_answers_as_a_mounted_one(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    answers = []
    for namespaces in ("require", "off"):
        made = make_root(tmp_path_factory.mktemp("root"))
        result = run(made, [PYTHON, "-c", PLAY, json.dumps(steps)], namespaces=namespaces, fs_writable=["/"])
        assert result.exit_code == 0, result
        answers.append(result.stdout.decode().splitlines())
    assert answers[1] == answers[0]


@pytest.mark.parametrize("namespaces", [pytest.param("auto", marks=pytest.mark.needs("mount_namespace")), "off"])
def test_a_root_may_be_a_branch_with_mounts_in_it(root: Path, namespaces: str) -> None:
    script = "echo x > /new; cd /work; cat ok; echo y > ok; cat ok; cp /bin/echo e; /work/e ran; cat /mnt/file; cd deep/..; pwd"
    branch: dict[str, Any] = {"workdir": str(root), "fs_storage": str(root.parent / "storage"), "on_exit": "abort"}
    result = run(root, ["/bin/sh", "-c", script], namespaces=namespaces, fs_writable=["/"], **branch)
    assert result.stdout.decode().split() == ["fine", "y", "ran", "rw/work"], result
    assert [change.path for change in result.changes] == ["new", "work/e", "work/ok"]
    assert (root / "work/ok").read_text() == "fine\n"
    assert not (root / "new").exists()


def test_a_path_that_is_denied_by_a_link_into_a_mount_is_denied_by_every_name(root: Path) -> None:
    (root / "way").symlink_to("mnt")
    paths = ["/way/file", "/mnt/file", "/proc/self/root/mnt/file", "/work/../way/../mnt/file"]
    argv = ["/bin/sh", "-c", "for path; do cat $path; done", "sh", *paths]
    assert run(root, argv).stdout == b"rw" * 4
    assert run(root, argv, fs_denied=["/way/file"]).stdout == b""


def test_not_25_entering_and_running_give_no_right_to_read(root: Path) -> None:
    """A folder and a program outside of every grant: the one may be entered, the other not run, neither is read."""
    (root / "closed").mkdir()
    (root / "closed/program").write_bytes(Path("/bin/echo").read_bytes())
    (root / "closed/program").chmod(0o755)
    code = """
import os, threading
found = set()
def look():
    while not done:
        for fd in os.listdir("/proc/self/fd"):
            try:
                found.add(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                pass
done = False
watcher = threading.Thread(target=look)
watcher.start()
for _ in range(20):
    os.chdir("/closed")
    assert os.getcwd() == "/closed"
    for name in ("/closed/program", "program"):
        try:
            os.posix_spawn(name, [name], os.environ)
            print("ran")
        except PermissionError:
            pass
done = True
watcher.join()
print(sorted(path for path in found if path.startswith("/closed")))
"""
    result = run(root, [PYTHON, "-c", code], fs_readable=["/work", "/usr", "/lib", "/lib64", "/proc"])
    assert result.stdout == b"[]\n", result


# Asks for the inode flags of argv[1] (file_getattr, 6.17): prints the errno, 0 where they were told.
FLAGS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
told = libc.syscall(468, -100, sys.argv[1].encode(), ctypes.create_string_buffer(64), 24, 0)
print(0 if told == 0 else ctypes.get_errno())
"""


def test_dir_02_file_getattr_does_not_look_past_the_view(root: Path) -> None:
    """It takes a path, and nobody else asked for it: it told of files outside of a root, and of denied ones."""
    secret = str(root.parent / "secret")
    bare = subprocess.run([PYTHON, "-c", FLAGS, secret], capture_output=True, check=True).stdout
    assert bare in (b"0\n", b"38\n", b"95\n")  # ENOSYS before 6.17; EOPNOTSUPP where the file system has none
    assert run(root, [PYTHON, "-c", FLAGS, secret]).stdout == b"38\n"
