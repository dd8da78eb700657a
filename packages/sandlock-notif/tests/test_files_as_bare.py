"""What is served answers as the kernel does: flags, umask, FIFOs, odd paths, bad pointers (FS-03, FS-09, NOT-09)."""

# ruff: noqa: E501  # tables of calls in the text of programs

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from file_calls import bare, program
from supervision import supervise
from test_files_cow import OPERATIONS, SEQUENCE
from test_files_denied import ALL, READ

from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]


@pytest.fixture
def trees() -> Iterator[tuple[Path, Path]]:
    """Two equal trees: for the served and for the bare program."""
    made = Path(mkdtemp(prefix="sandlock-bare-"))
    for name in ("served", "bare"):
        tree = made / name
        (tree / "dir/inside").mkdir(parents=True)
        (tree / "other").mkdir()
        (tree / "file").write_text("content")
        (tree / "dir/file").write_text("content")
        (tree / "folderlink").symlink_to("dir")
        (tree / "up").symlink_to("../" + name + "/dir")
        (tree / "absolute").symlink_to(tree / "dir")
        (tree / "dangling").symlink_to("other/absent")
        (tree / "loop").symlink_to("loop")
        os.mkfifo(tree / "fifo")
        (tree / "never").write_text("denied")
    yield made / "served", made / "bare"
    shutil.rmtree(made)


def both(trees: tuple[Path, Path], code: str, *arguments: str) -> tuple[list[str], list[str]]:
    """What the program says served, below a view that denies something else, and bare."""
    view = View(denied=[os.fsencode(trees[0] / "never")], writable=[os.fsencode(trees[0])])
    grants = [(b"/", READ), (os.fsencode(trees[0]), ALL), (b"/dev/null", ALL)]
    outcome = supervise(program(code, str(trees[0]), *arguments), FilesTable(view), grants=grants, timeout_s=60)
    assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
    plain = bare(code, [str(trees[1]), *arguments], str(trees[1]))
    return (
        outcome.output.decode().replace(str(trees[0]), "T").splitlines(),
        plain.decode().replace(str(trees[1]), "T").splitlines(),
    )


ODD = """
os.chdir(sys.argv[2]); long = "x/" * 2100
paths = ["", ".", "..", "/", "//", "file/", "file/.", "file/..", "dir/", "dir/.", "dir//inside/..", "absent/", "absent/x", "loop",
         "loop/x", "dangling", "dangling/", "folderlink", "folderlink/", "folderlink/.", "up/file", "absolute/file", "x" * 255,
         "x" * 256, "dir/" + "x" * 256, long, "/proc/self/cwd/file", "/proc/self/fd/999", "dir/../file", "file/../file"]
calls = [("open", "P, 0, 0"), ("open", "P, 0o102, 0o600"), ("open", "P, 0o302, 0o600"), ("open", "P, 0o200000, 0"),
         ("open", "P, 0o400000, 0"), ("open", "P, 0o1001, 0"), ("stat", "P, buf"), ("lstat", "P, buf"), ("access", "P, 2"),
         ("readlink", "P, buf, 100"), ("mkdir", "P, 0o700"), ("rmdir", "P"), ("unlink", "P"), ("rename", "P, b'dir/new'"),
         ("rename", "b'dir/file', P"), ("link", "P, b'dir/hard'"), ("link", "b'file', P"), ("symlink", "b'x', P"),
         ("mknod", "P, 0o100600, 0"), ("chmod", "P, 0o700"), ("truncate", "P, 3"), ("truncate", "P, -1"), ("chdir", "P"),
         ("utimensat", "-100, P, 0, 0"), ("utimensat", "-100, P, 0, 0x100"), ("statx", "-100, P, 0x6000, 0x7ff, buf"),
         ("newfstatat", "-100, P, buf, 0x40"), ("faccessat2", "-100, P, 8, 0"), ("unlinkat", "-100, P, 1"),
         ("renameat2", "-100, P, -100, b'dir/z', 3"), ("linkat", "-100, P, -100, b'dir/h2', 0x400")]
def restore():
    for name in ("dir/new", "dir/hard", "dir/z", "dir/h2", "other/absent", "x" * 255, "absent"):
        for one in (name, name):
            try: os.unlink(one)
            except IsADirectoryError: os.rmdir(one)
            except OSError: break
    for name in ("file", "dir/file"):
        if not os.path.isfile(name):
            with open(name, "w") as f: f.write("content")
    for name in ("dir", "dir/inside"):
        if not os.path.isdir(name): os.mkdir(name)
    for name, target in (("folderlink", "dir"), ("dangling", "other/absent"), ("loop", "loop")):
        if os.path.lexists(name) and not os.path.islink(name):
            os.rmdir(name) if os.path.isdir(name) else os.unlink(name)
        if not os.path.islink(name): os.symlink(target, name)
for text in paths:
    for name, arguments in calls:
        if name not in numbers: continue
        if text in ('/', '//', '..') and name in ('chmod', 'utimensat'): continue  # outside the tree: refused, and bare a harm
        os.chdir(sys.argv[2]); restore()
        result, error = call(name, *eval("(" + arguments + ",)", dict(globals(), P=os.fsencode(text))))
        if name == "open" and result > 2: os.close(result)
        print(text[:20], name, arguments, error)
"""


def test_fs_03_odd_paths_fail_as_bare(trees: tuple[Path, Path]) -> None:
    served, plain = both(trees, ODD)
    assert len(plain) > 800
    assert [line for line in zip(served, plain, strict=True) if line[0] != line[1]] == []


def test_not_09_bad_pointers_are_efault_and_the_loop_lives(trees: tuple[Path, Path]) -> None:
    code = """
os.chdir(sys.argv[2])
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(8192), 3, 0x22, -1, ctypes.c_long(0)); libc.munmap(ctypes.c_void_p(page + 4096), 4096)
ctypes.memmove(page + 4092, b"file", 4)
for bad in (0, -1, 1, 1 << 63, page + 4092, page + 4096):
    for name, arguments in (("openat", "-100, P, 0, 0"), ("newfstatat", "-100, P, buf, 0"), ("mkdirat", "-100, P, 0"),
                            ("renameat", "-100, P, -100, b'x'"), ("renameat", "-100, b'file', -100, P"),
                            ("newfstatat", "-100, b'file', P, 0"), ("readlinkat", "-100, b'up', P, 10"), ("chdir", "P"),
                            ("openat2", "-100, b'file', P, 24"), ("utimensat", "-100, b'file', P, 0")):
        if (name, bad) == ("utimensat", 0): continue
        print(hex(bad & 255), name, arguments, call(name, *eval("(" + arguments + ",)", dict(globals(), P=bad)))[1])
print(open("file").read())
"""
    served, plain = both(trees, code)
    assert served == plain
    assert served[-1] == "content"


def test_openat2_keeps_to_its_limits_as_bare(trees: tuple[Path, Path]) -> None:
    code = """
os.chdir(sys.argv[2]); here = os.open("dir", 0); tree = os.open(".", 0)
import struct
for resolve in (0, 1, 2, 4, 8, 0x10, 0x18, 0x40, 6, 12):
    for at in (here, tree, -100):
        for text in ("file", "../file", "inside/../file", "inside/../../file", "up/file", "folderlink/file", "absolute/file",
                     "/etc/passwd",
                     "dir/file", "/proc/self/fd/%d/file" % here, ".", "..", "/"):
            result, error = call("openat2", at, os.fsencode(text), struct.pack("=QQQ", 0, 0, resolve), 24)
            print(resolve, at == -100, text[:14], error if result < 0 else os.readlink(f"/proc/self/fd/{result}"))
            if result >= 0: os.close(result)
for how, size in ((struct.pack("=QQQ", 1 << 40, 0, 0), 24), (struct.pack("=QQQ", 0, 0o777, 0), 24), (bytes(16), 16), (bytes(32), 32),
                  (bytes(24) + b"\\1" + bytes(7), 32), (bytes(24), 5000), (struct.pack("=QQQ", 0o102, 0o10777, 0), 24)):
    print(size, call("openat2", -100, b"file", how, size)[1])
"""
    served, plain = both(trees, code)
    assert [pair for pair in zip(served, plain, strict=True) if pair[0] != pair[1]] == []


def test_fs_09_not_26_creation_has_the_childs_umask_and_unnamed_files_get_names(trees: tuple[Path, Path]) -> None:
    code = """
os.chdir(sys.argv[2])
for mask in (0, 0o22, 0o77, 0o277):
    os.umask(mask); n = f"n{mask}"
    os.close(os.open(n, os.O_CREAT | os.O_WRONLY, 0o666)); os.mkdir(n + "d", 0o1777); os.mknod(n + "f", 0o10666)
    print([oct(os.lstat(n + s).st_mode) for s in ("", "d", "f")])
os.umask(0o22); fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640); os.write(fd, b"unnamed")
print(call("linkat", -100, b"/proc/self/fd/%d" % fd, -100, b"named", 0x400)[1])
print(open("named").read(), oct(os.stat("named").st_mode))
print(call("linkat", fd, b"", -100, b"again", 0x1000)[1])
fd = os.open("file", os.O_RDONLY); os.unlink("file"); print(os.read(os.open(f"/proc/self/fd/{fd}", 0), 9))
print(call("open", b"/dev/null", 0o1001, 0)[0] > 2, os.read(os.open("/dev/zero", 0), 2))
"""
    served, plain = both(trees, code)
    assert served == plain


def test_not_11_fifos_wait_for_their_other_side_and_nobody_else_waits(trees: tuple[Path, Path]) -> None:
    code = """
import signal, time
os.chdir(sys.argv[2])
def child(f):
    pid = os.fork()
    if pid == 0: f(); os._exit(0)
    return pid
def write(): time.sleep(0.2); fd = os.open("fifo", os.O_WRONLY); os.write(fd, b"through")
for _ in range(12): child(lambda: os.open("fifo", os.O_RDONLY))       # more than there are deputies
time.sleep(0.1); print(open("file").read())                             # and others are served
child(lambda: (time.sleep(0.2), os.open("fifo", os.O_WRONLY), time.sleep(1)))
for _ in range(13): os.wait()
start = time.monotonic(); pid = child(write); fd = os.open("fifo", os.O_RDONLY); print(time.monotonic() - start > 0.15, os.read(fd, 20))
os.close(fd); os.waitpid(pid, 0)
start = time.monotonic(); pid = child(lambda: (time.sleep(0.2), os.open("fifo", os.O_RDONLY), time.sleep(0.3)))
fd = os.open("fifo", os.O_WRONLY); print(time.monotonic() - start > 0.15, os.get_blocking(fd)); os.close(fd); os.waitpid(pid, 0)
try: os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
except OSError as e: print(errno.errorcode[e.errno])
print(os.get_blocking(os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)), os.open("fifo", os.O_RDWR) > 0)
"""
    served, plain = both(trees, code)
    assert served == plain
    assert served[:3] == ["content", "True b'through'", "True True"]


@pytest.mark.parametrize("seed", range(3))
def test_random_sequences_on_the_hosts_files_answer_as_bare(trees: tuple[Path, Path], seed: int) -> None:
    """300 operations, the same plan bare; the seed is the reproduction."""
    rng = random.Random(seed)  # noqa: S311  # a reproducible plan
    paths = [
        "a",
        "b",
        "dir",
        "dir/c",
        "dir/inside",
        "dir/inside/d",
        "other",
        "folderlink/c",
        "file",
        "a/f",
        "./b",
        "dir/..",
        "up/c",
    ]
    plan = json.dumps([(rng.choice(OPERATIONS), rng.choice(paths), rng.choice(paths)) for _ in range(300)])
    for tree in trees:
        (tree / "fifo").unlink()
        (tree / "never").unlink()
    served, plain = both(trees, SEQUENCE, plan)
    assert served == [line.replace("../bare/", "../served/") for line in plain]


def test_ll_01_attributes_change_below_the_write_grants_alone(trees: tuple[Path, Path]) -> None:
    """Landlock does not see these calls; the bare tree beside the granted one belongs to the same user."""
    code = """
out = sys.argv[3]; os.chdir(sys.argv[2])
def t(label, f, *a, **k):
    try: f(*a, **k); print(label, "ok")
    except OSError as e: print(label, errno.errorcode[e.errno])
for where in (".", "file", "dir/inside", "up/file"): t("own " + where, os.chmod, where, 0o755)
os.symlink(out, "link"); os.symlink(out + "/file", "link2")
for where in (out, out + "/file", "link/file", "link2", "/proc/self/root" + out + "/dir"):
    t("chmod", os.chmod, where, 0o777); t("chown", os.chown, where, uid, gid); t("utime", os.utime, where, (1, 1))
    t("setxattr", os.setxattr, where, "user.x", b"v"); t("removexattr", os.removexattr, where, "user.x")
fd = os.open(out + "/file", os.O_RDONLY); t("fd", os.chmod, f"/proc/self/fd/{fd}", 0o777)
t("empty", lambda: print("x", call("fchownat", fd, b"", uid, gid, 0x1000)[1]))
"""
    before = os.stat(trees[1] / "file")
    view = View(denied=[os.fsencode(trees[0] / "never")], writable=[os.fsencode(trees[0])])
    grants = [(b"/", READ), (os.fsencode(trees[0]), ALL)]
    outcome = supervise(program(code, str(trees[0]), str(trees[1])), FilesTable(view), grants=grants)
    lines = [line.rsplit(" ", 1) for line in outcome.output.decode().splitlines()]
    assert [answer for label, answer in lines if label.startswith("own")] == ["ok"] * 4
    assert {answer for label, answer in lines if not label.startswith(("own", "empty"))} == {"EPERM"}
    after = os.stat(trees[1] / "file")
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
