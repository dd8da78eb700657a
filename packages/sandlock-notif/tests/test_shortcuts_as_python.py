"""What is served without the interpreter is answered as the interpreter would: the same calls, asked of both."""

# ruff: noqa: E501  # tables of calls in the text of programs

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from file_calls import program
from supervision import Outcome, supervise

from sandlock_cow.branch import Branch
from sandlock_notif import supervisor
from sandlock_notif.fs.layers.virtual import VirtualLayer
from sandlock_notif.fs.mount import Bind
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]

READ, ALL = 1 | 4 | 8, (1 << 16) - 1  # LANDLOCK_ACCESS_FS_*, linux/landlock.h
CALLS = 1500
CHANGES = 0.1  # of the calls below a branch change something
FILES = (
    *(
        "file",
        "dir/file",
        "dir/deep/file",
        "dir/no",
        "secret/file",
        "secret/inner/file",
        "secrets/file",
        "made",
        "hidden",
    ),
    *("host/file", "one"),
)
SEED = int(os.environ.get("SANDLOCK_SEED", "20261122"))  # set another one to look further

# Makes random calls on random paths from random folders, and tells what each answered.
CODE = r"""
import fcntl, random, select, stat, struct
base, seed, count, changes = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
REAL = {tuple(pair) for pair in json.loads(sys.argv[6])}
choose = random.Random(seed)
os.chdir(base + "/tree")
PROC = os.stat("/proc").st_dev
def held(path, flags):
    try: return os.open(path, flags)
    except OSError: return 77
os.mkdir("gone", 0o700)
gone = os.open("gone", os.O_PATH)
deep = os.open("dir/deep", os.O_RDONLY)
os.rmdir("gone")
folders = [-100, -100, -100, -1, -101, 77, 2**31, deep, gone, deep | 0xdead << 32, 2**64 - 100, 2**32 - 100]
own = ["/proc/self" + name for name in ("", "/fd", "/task")]
for path in (".", "dir", "secret", "secret/inner", "/", "/dev", "/proc", *own):
    folders += [held(path, os.O_PATH), held(path, os.O_RDONLY)]
for path in ("file", "link", "dir/no", "/dev/null"):
    folders += [held(path, os.O_PATH | os.O_NOFOLLOW), held(path, os.O_RDONLY)]
poll = select.epoll()
folders += [os.pipe()[0], os.memfd_create("x"), poll.fileno()]
NEW = [(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in [gone, *folders[-3:]]]
names = [
    "dir", "dir", "deep", "file", "file", "empty", "no", "secret", "inner", "hard", "link", "folderlink",
    "loop", "dangling", "up", "..", "..", ".", "", "absent", "made", "hidden", "tree", "mnt", "one", "secre",
    "secrets", "Secret", "socket", "self", "thread-self", "root", "cwd", "fd", "exe", "mounts", "stat", "1",
    "proc", "dev", "null", "locked", "n" * 255, "n" * 256, "\udcff\udcfe", "no\udc80",
]
names += ["dir", "file", "secret"] * 5 + ["inner", "made", "hidden"] * 2
open(base + "/signs/ready", "w").close()
while not os.path.exists(base + "/signs/go"): select.select([], [], [], 0.005)
def path():
    kind = choose.random()
    if kind < 0.02: return choose.choice([b"", b"/", b"//", b".", b"..", b"./", b"../", b"/.", b"/.."])
    if kind < 0.04:
        long = [b"x" * 4095, b"x" * 4096, b"./" * 2045 + b"file", b"./" * 2046 + b"file", b"/" * 4090 + b"file"]
        return choose.choice(long)
    parts = [choose.choice(names) for _ in range(choose.choice([1, 1, 1, 2, 2, 3, 4]))]
    if kind < 0.4: parts = [choose.choice([base + "/tree", base + "/tree", "/tree", "", "/proc", base])] + parts
    return os.fsencode("/".join(parts) + choose.choice(["", "", "", "", "/", "//", "/."]))
def fresh(device, inode):  # of the upper layer, where inode numbers are new in each run
    return changes and device in {pair[0] for pair in REAL} and (device, inode) not in REAL
def known(found):
    new = found.st_dev == PROC or (found.st_dev, found.st_ino) in NEW
    if not new and fresh(found.st_dev, found.st_ino):
        return ["upper", found.st_mode] if stat.S_ISDIR(found.st_mode) else ["upper", found.st_mode, found.st_nlink, found.st_size]
    if new or not found.st_nlink or stat.S_ISFIFO(found.st_mode):
        return ["new", found.st_mode, found.st_size]
    said = [found.st_dev, found.st_ino, found.st_mode]  # others make folders in /tmp
    return said if stat.S_ISDIR(found.st_mode) else [*said, found.st_nlink, found.st_size]
def opened(fd):
    try:
        how = fcntl.fcntl(fd, fcntl.F_GETFL) & ~(0o400000 if changes else 0)  # a branch adds O_NOFOLLOW
        told = known(os.fstat(fd)) + [hex(how), fcntl.fcntl(fd, fcntl.F_GETFD)]
        found, how = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
        if stat.S_ISREG(found.st_mode) and found.st_dev != PROC and how & 0o10000003 == 0:
            told.append(os.read(fd, 20).decode())
        return told
    except OSError as error: return ["opened", errno.errorcode[error.errno]]
    finally: os.close(fd)
def flags(*bits):  # but for O_CREAT and O_TMPFILE, which would make another tree for the next run
    value = 0
    for bit in bits: value |= bit if choose.random() < 0.2 else 0
    if choose.random() < 0.08: value |= choose.choice([1 << n for n in range(64) if n not in (6, 22)])
    return value
O = (0o1, 0o2, 0o1000, 0o2000, 0o10000, 0o40000, 0o200000, 0o400000, 0o1000000, 0o2000000, 0o10000000, 0o200)
def look(name, *arguments):
    buf.raw = bytes(512)
    word = ctypes.c_ulong
    ctypes.set_errno(0)
    words = [a if isinstance(a, (bytes, ctypes.Array)) else word(a & 2**64 - 1) for a in arguments]
    result = libc.syscall(ctypes.c_long(numbers[name]), *words)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]
calls = ["newfstatat", "newfstatat", "statx", "faccessat", "faccessat2", "readlinkat", "openat", "openat"]
calls += ["fstat"] if changes else []  # elsewhere it is the kernel's
calls += [name for name in ("stat", "open", "readlink", "access") if name in numbers]
MODES = [0o600, 0o644, 0o755, 0o700, 0o400, 0o000]
def change():
    kind = choose.choice(["write", "write", "append", "mkdir", "rmdir", "unlink", "rename", "rename", "link", "symlink", "chmod", "truncate", "utime"])
    at, where, there = choose.choice(folders[:40]), path(), path()
    mode, length = choose.choice(MODES), choose.choice([0, 3, 5000])
    at = at if 0 <= at < 2**31 else None
    try:
        if kind in ("write", "append"):
            fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | (os.O_TRUNC if kind == "write" else os.O_APPEND), mode or 0o600, dir_fd=at)
            os.write(fd, b"changed " + str(length).encode()); os.close(fd)
        elif kind == "mkdir": os.mkdir(where, mode | 0o100, dir_fd=at)
        elif kind == "rmdir": os.rmdir(where, dir_fd=at)
        elif kind == "unlink": os.unlink(where, dir_fd=at)
        elif kind == "rename": os.rename(where, there, src_dir_fd=at, dst_dir_fd=at)
        elif kind == "link": os.link(where, there, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
        elif kind == "symlink": os.symlink(choose.choice(["file", "dir", "../tree/file", "deep"]), where, dir_fd=at)
        elif kind == "chmod": os.chmod(where, mode, dir_fd=at)
        elif kind == "truncate": os.truncate(where, length)
        else: os.utime(where, (5, length), dir_fd=at)
        answer = "done"
    except OSError as error: answer = errno.errorcode[error.errno]
    return kind, at, os.fsdecode(where)[:300], os.fsdecode(there)[:300], answer
def one():
    if changes and choose.random() < changes: return change()
    at, where = choose.choice(folders), path()
    kind = choose.choice(calls)
    if kind in ("newfstatat", "stat", "fstat"):
        more = flags(0x100, 0x800, 0x1000, 0x2000, 0x4000)
        if choose.random() < 0.1: where, more = b"", more | 0x1000
        result = look(kind, *([at] if kind == "fstat" else [where] if kind == "stat" else [at, where]), buf, more)
        device, inode = struct.unpack_from("QQ", buf)
        new = device == PROC or (device, inode) in NEW
        mode = struct.unpack_from("I", buf, 24 if os.uname().machine == "x86_64" else 16)[0]
        said = [*(["upper"] if fresh(device, inode) else [device, inode]), 0 if stat.S_ISDIR(mode) else buf.raw[16:56].hex()]
        answer = ("new" if new or stat.S_ISFIFO(mode) else said) if result == 0 else result
    elif kind == "statx":
        more = flags(0x100, 0x800, 0x1000, 0x2000, 0x4000)
        mask = choose.choice([0, 0x7ff, 0xfff, 0x1fff, 0x80000000, 2**40 + 0x7ff])
        if choose.random() < 0.1: where, more = b"", more | 0x1000
        result = look(kind, at, where, more, mask, buf)
        device = os.makedev(*struct.unpack_from("II", buf, 136))
        new = device == PROC or (device, struct.unpack_from("Q", buf, 32)[0]) in NEW
        mode = struct.unpack_from("H", buf, 28)[0]
        more = [buf.raw[:4].hex(), buf.raw[28:40 if stat.S_ISDIR(mode) else 48].hex()]
        if fresh(device, struct.unpack_from("Q", buf, 32)[0]): more[1] = buf.raw[28:32].hex()
        answer = ("new" if new or stat.S_ISFIFO(mode) else [device, more]) if result == 0 else result
    elif kind in ("faccessat", "faccessat2", "access"):
        mode = choose.choice([0, 1, 2, 3, 4, 7, 8, 2**32 + 4])
        answer = look(kind, *([] if kind == "access" else [at]), where, mode, flags(0x100, 0x200, 0x1000))
    elif kind in ("readlinkat", "readlink"):
        size = choose.choice([0, 1, 3, 500, -1, 2**32 + 3])
        result = look(kind, *([] if kind == "readlink" else [at]), where, buf, size)
        text = buf.raw.rstrip(b"\0").decode(errors="replace").replace(str(os.getpid()), "PID")
        if b"self" in where: text = "of this process"  # its number, perhaps cut off
        answer = [result if text[:2] != "of" else 0, text] if isinstance(result, int) else result
    else:
        result = look(kind, *([] if kind == "open" else [at]), where, 0o4000 | flags(*O), 0)
        answer = opened(result) if isinstance(result, int) else result
    return kind, at, os.fsdecode(where)[:300], answer
for n in range(count):
    print(json.dumps(one()))
"""


@pytest.fixture
def base() -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="sandlock-alike-"))
    tree = folder / "tree"
    for name in ("dir/deep/dir", "secret/inner", "secrets", "secre", "mnt", "host", "locked", "../signs"):
        (tree / name).mkdir(parents=True)
    fill(tree)
    (tree / "empty").touch()
    (tree / "dir" / os.fsdecode(b"\xff\xfe")).write_text("odd")
    (tree / ("n" * 255)).touch()
    (tree / "dir/hard").hardlink_to(tree / "dir/no")
    for name, text in {
        "link": "file",
        "folderlink": "dir",
        "loop": "loop",
        "dangling": "nowhere",
        "dir/up": "..",
    }.items():
        (tree / name).symlink_to(text)
    (tree / "dir/link").symlink_to(tree / "secret")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
    (tree / "locked").chmod(0)
    yield folder
    (tree / "locked").chmod(0o700)
    shutil.rmtree(folder)
    shutil.rmtree(storage(folder), ignore_errors=True)


def denying(base: Path) -> View:
    tree = base / "tree"
    return View(denied=[os.fsencode(tree / name) for name in ("secret", "dir/no", "absent/made")])


def denying_later(_: Path) -> View:
    """What is denied while its folders are open already."""
    return View(live=True)


def generating(base: Path) -> View:
    layer = VirtualLayer()
    layer.add(os.fsencode(base / "tree/made"), lambda _: b"generated")
    layer.hide(os.fsencode(base / "tree/hidden"))
    layer.add_in_process(b"mounts", lambda _: b"no mounts")
    layer.hide_processes()
    return View(denied=[os.fsencode(base / "tree/secret")], virtual=layer)


def rooted(base: Path) -> View:
    view = View(denied=[b"/tree/secret", b"/tree/dir/no"])
    binds = [Bind(b"/tree/mnt", os.fsencode(base / "tree/host"))]
    for name in ("proc", "dev", "usr", "lib", "lib64", "etc"):
        if os.path.exists(f"/{name}"):
            (base / name).mkdir()
            binds.append(Bind(b"/" + name.encode(), os.fsencode(os.path.realpath(f"/{name}"))))
    view.show(root=str(base), binds=binds, branches=(), writable=())
    return view


def branched(base: Path) -> View:
    return View(branches=[Branch(str(base / "tree"), storage=storage(base))])


def branched_denying(base: Path) -> View:
    view = denying(base)
    view.show(root=None, binds=(), branches=[Branch(str(base / "tree"), storage=storage(base))], writable=())
    return view


def branched_whole(base: Path) -> View:
    """A root that is a branch, as a program of an image has it."""
    view = rooted(base)
    view.show(root=str(base), binds=view._binds, branches=[Branch(str(base), storage=storage(base))], writable=())
    return view


def storage(base: Path) -> str:
    return f"{base}-storage"


def drop(view: View) -> None:
    """Discard the branches of a view."""
    for branch in view._branches:
        branch.discard()


def real(base: Path) -> str:
    """The identities of everything below the folder."""
    found = [path.lstat() for path in (base, *base.rglob("*"))]
    return json.dumps([(status.st_dev, status.st_ino) for status in found])


def fill(tree: Path) -> None:
    """Write all contents anew, into the same files."""
    for path in FILES:
        (tree / path).write_text(path)


@pytest.mark.parametrize(
    "make", [denying, denying_later, generating, rooted, branched, branched_denying, branched_whole]
)
def test_random_calls_are_answered_alike(
    base: Path, make: Callable[[Path], View], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> Outcome:
        fill(base / "tree")
        for name in ("ready", "go"):
            (base / "signs" / name).unlink(missing_ok=True)
        for name in ("proc", "dev", "usr", "lib", "lib64", "etc"):
            shutil.rmtree(base / name, ignore_errors=True)
        changes = CHANGES if make.__name__.startswith("branched") else 0
        inside = "" if make in (rooted, branched_whole) else str(base)
        argv = program(CODE, inside, str(SEED), str(CALLS), str(changes), real(base))
        grants = [(b"/", READ), (os.fsencode(base / "signs" if changes else base), ALL)]
        view = make(base)

        async def deny(*_: object) -> None:
            while make is not branched_whole and not (base / "signs/ready").exists():  # noqa: ASYNC110  # another process makes it
                await asyncio.sleep(0.005)
            if make is denying_later:
                for denied in ("secret", "dir/no"):
                    view.denials.deny(os.fsencode(base / "tree" / denied))
            (base / "signs/go").touch()

        outcome = supervise(argv, FilesTable(view), while_running=deny, grants=grants, timeout_s=60.0)
        drop(view)
        assert outcome.code == 0
        assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
        return outcome

    shortly = run()
    monkeypatch.setattr(supervisor, "shortcut_of", lambda *_: None)
    asked = run()
    assert shortly.supervisor is not None
    assert asked.supervisor is not None
    assert (shortly.supervisor.shortly > CALLS // 10, asked.supervisor.shortly) == (True, 0)
    told = [[json.loads(line) for line in outcome.output.splitlines()] for outcome in (shortly, asked)]
    assert [len(lines) for lines in told] == [CALLS, CALLS]
    different = [pair for pair in zip(*told, strict=True) if pair[0] != pair[1]]
    assert different == [], f"with SANDLOCK_SEED={SEED}"
    assert len({str(answer) for *_, answer in told[0]}) > 25
