"""A copy-on-write directory: every call sees the branch, the real tree keeps every byte (FS-14 to FS-16, LL-02)."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from file_calls import bare, names, program
from supervision import Outcome, supervise
from test_files_denied import CODE, READ

from sandlock_cow.branch import Branch
from sandlock_cow.model import Found
from sandlock_notif.fs.layers.cow import CowLayer
from sandlock_notif.fs.location import Location
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]


@pytest.fixture
def base() -> Iterator[Path]:
    made = Path(mkdtemp(prefix="sandlock-cow-"))
    (made / "tree/dir/inside").mkdir(parents=True)
    (made / "tree/other").mkdir()
    (made / "tree/folderlink").symlink_to("dir")
    (made / "tree/abslink").symlink_to(made / "tree/dir")
    (made / "tree/file").write_text("real")
    yield made
    shutil.rmtree(made)


def fingerprint(folder: Path) -> str:
    """A digest of everything in a tree: names, contents, modes, owners, times, links."""
    digest = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files, "."]):
            path = os.path.join(root, name)
            found = os.lstat(path)
            digest.update(
                repr((path, found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns)).encode()
            )
            if os.path.islink(path):
                digest.update(os.fsencode(os.readlink(path)))
            elif os.path.isfile(path):
                digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def inside(base: Path, argv: list[str], timeout_s: float = 60.0, cwd: str = "") -> tuple[Outcome, list[str]]:
    """Run in a branch over `tree`; return the outcome and the changes, after the real tree was found untouched."""
    before = fingerprint(base / "tree")
    with Branch(str(base / "tree"), storage=str(base / "storage")) as branch:
        view = View(branches=[branch])
        grants = [(b"/", READ), (b"/dev/null", (1 << 16) - 1)]
        outcome = supervise(argv, FilesTable(view), grants=grants, timeout_s=timeout_s, cwd=cwd)
        changes = [f"{change.kind} {change.path}" for change in branch.changes()]
        branch.discard()
    assert fingerprint(base / "tree") == before
    assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
    return outcome, changes


@pytest.mark.parametrize(
    ("through", "template"),
    [
        ("", "{base}/tree/dir/{name}"),
        ("", "dir/{name}"),
        ("dir", "{name}"),
        ("", "folderlink/{name}"),
        ("", "{base}/tree/abslink/{name}"),
        ("", "dir/../other/../dir/./{name}"),
        ("", "/proc/self/cwd/dir/{name}"),
    ],
)
def test_fs_15_every_call_answers_as_bare_and_the_real_tree_stays(base: Path, through: str, template: str) -> None:
    rows = {row: arguments for row, arguments in names().items() if "O_PATH" not in row}
    code = CODE.replace("held = os.open(real, os.O_PATH)", "held = os.open(real, 0)")
    arguments = [str(base), "cow", template, through, json.dumps(rows), "ok"]
    copy = base / "copy"
    shutil.copytree(base / "tree", copy / "tree", symlinks=True)
    (copy / "tree/abslink").unlink()
    (copy / "tree/abslink").symlink_to(copy / "tree/dir")
    expected = json.loads(bare(code, [str(copy), *arguments[1:]], str(base)))
    outcome, changes = inside(base, program(code, *arguments))
    assert json.loads(outcome.output) == expected
    assert changes


def test_what_is_made_changed_and_removed_is_seen_inside_alone(base: Path) -> None:
    code = """
os.chdir(sys.argv[2])
open("file", "a").write(" and more"); print(open("file").read())
os.mkdir("new"); os.chdir("new"); open("x", "w").write("hi"); print(os.getcwd() == sys.argv[2] + "/new", os.listdir())
os.chdir(".."); os.rename("dir", "moved"); print(sorted(os.listdir()), os.listdir("moved"))
os.unlink("file"); print(os.path.exists("file"), os.path.exists(sys.argv[2] + "/file"))
os.symlink("new/x", "l"); os.link("new/x", "h"); print(open("l").read(), os.stat("h").st_nlink)
os.rmdir("other"); os.mkdir("other"); print(os.listdir("other"))
print(os.readlink("/proc/self/cwd") == sys.argv[2])
"""
    outcome, changes = inside(base, program(code, str(base / "tree")))
    assert outcome.output.decode().splitlines() == [
        "real and more",
        "True ['x']",
        "['abslink', 'file', 'folderlink', 'moved', 'new', 'other'] ['inside']",
        "False False",
        "hi 2",
        "[]",
        "True",
    ]
    assert {"D file", "D dir", "A moved", "A new/x", "A l", "A h"} <= set(changes)


def test_ll_02_attributes_through_a_read_only_fd_change_the_branch(base: Path) -> None:
    code = """
os.chdir(sys.argv[2])
fd = os.open("file", os.O_RDONLY)
os.fchmod(fd, 0o600); os.utime(fd, (1, 2)); os.fchown(fd, uid, gid)
print(oct(os.stat("file").st_mode), int(os.stat("file").st_mtime))
for request in (0x40086602, 0x401C5820): print(call("ioctl", fd, request, buf)[1])
for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC): os.write(os.open(f"/proc/self/fd/{fd}", flags), b"x")
print(open("file").read())
"""
    outcome, changes = inside(base, program(code, str(base / "tree")))
    assert outcome.output.decode().split() == ["0o100600", "2", "ENOTSUP", "ENOTSUP", "x"]
    assert changes == ["M file"]


def test_a_process_that_stands_in_a_folder_follows_where_it_is_moved(base: Path) -> None:
    code = """
os.chdir(sys.argv[2] + "/dir/inside"); here = os.open(".", 0)
os.rename("../../dir", "../../moved"); print(os.getcwd().removeprefix(sys.argv[2]))
open("mark", "w").close(); print(os.path.exists(sys.argv[2] + "/moved/inside/mark"), os.listdir("."), os.listdir(here))
os.mkdir(sys.argv[2] + "/dir"); os.mkdir(sys.argv[2] + "/dir/inside"); print(os.listdir("."))
os.unlink("mark"); os.chdir("/"); os.rmdir(sys.argv[2] + "/moved/inside")
try: os.open("x", os.O_CREAT, dir_fd=here)
except FileNotFoundError: print("gone")
"""
    outcome, _ = inside(base, program(code, str(base / "tree")))
    assert outcome.output.decode().splitlines() == [
        "/moved/inside",
        "True ['mark'] ['mark']",
        "['mark']",
        "gone",
    ]


@pytest.mark.usefixtures("leaks")
def test_programs_and_scripts_written_inside_run_inside(base: Path) -> None:
    code = """
os.chdir(sys.argv[2])
def run(*argv):
    pid = os.fork()
    if pid == 0:
        try: os.execve(argv[0], argv, {"A": "b"})
        except OSError as e: print(errno.errorcode[e.errno], flush=True); os._exit(9)
    os.waitpid(pid, 0)
def write(name, text, mode=0o755):
    with open(name, "w") as f: f.write(text)
    os.chmod(name, mode)
sys.stdout.flush()
shutil.copy("/bin/echo", "echo"); run("echo", "program"); run(sys.argv[2] + "/echo", "absolute")
run("./dir/../echo", "dotted")
write("script", "#!/bin/sh -e\\necho $0 $1 $A\\n"); run("script", "one"); run("./script", "two")
write("second", "#!" + sys.argv[2] + "/echo first\\n"); run("second", "three")
write("plain", "#!/bin/sh\\n", 0o644); run("plain"); run("dir"); run("absent"); write("empty", "x"); run("empty")
write("loop", "#!" + sys.argv[2] + "/loop\\n"); run("loop")
write("nothing", "#! \\n/bin/sh"); run("nothing")
run("/bin/echo", "host")
libc.prctl(38, 1, 0, 0, 0); print(os.getpid() > 0)
"""
    outcome, _ = inside(base, program(code, str(base / "tree")))
    here = str(base / "tree")
    assert outcome.output.decode().splitlines() == [
        "program",
        "absolute",
        "dotted",
        "script one b",
        "./script two b",
        "first second three",
        "EACCES",
        "EACCES",
        "ENOENT",
        "ENOEXEC",
        "ELOOP",
        "ENOEXEC",
        "host",
        "True",
    ], here


def test_a_started_program_stands_in_the_branch_from_the_beginning(base: Path) -> None:
    code = 'open("made", "w").close(); print(sorted(os.listdir()), os.getcwd() == sys.argv[2])'
    outcome, changes = inside(base, program(code, str(base / "tree")), cwd=str(base / "tree"))
    assert outcome.output.decode().strip().endswith("'made', 'other'] True")
    assert changes == ["A made"]


OPERATIONS = (
    "write",
    "append",
    "mkdir",
    "rmdir",
    "unlink",
    "rename",
    "link",
    "symlink",
    "chmod",
    "truncate",
    "read",
    "list",
)
SEQUENCE = """
os.chdir(sys.argv[2]); plan = json.loads(sys.argv[3]); os.umask(0o022)
def do(name, a, b):
    if name in ("write", "append"):
        with open(a, name[0]) as f: f.write(b)
    elif name == "read": return open(a).read()
    elif name == "list": return sorted(os.listdir(a))
    elif name == "mkdir": os.mkdir(a)
    elif name == "rmdir": os.rmdir(a)
    elif name == "unlink": os.unlink(a)
    elif name == "rename": os.rename(a, b)
    elif name == "link": os.link(a, b)
    elif name == "symlink": os.symlink(b, a)
    elif name == "chmod": os.chmod(a, 0o750)
    elif name == "truncate": os.truncate(a, 3)
    elif name == "chdir": os.chdir(a)
for name, a, b in plan:
    try: print(json.dumps([name, a, b, do(name, a, b)]))
    except OSError as e: print(json.dumps([name, a, b, errno.errorcode[e.errno]]))
for root, folders, files in os.walk(sys.argv[2]):
    folders.sort()
    for n in sorted([*folders, *files]):
        path = os.path.join(root, n); name = os.path.relpath(path, sys.argv[2])
        try:
            found = os.lstat(path)
            text = os.readlink(path) if os.path.islink(path) else open(path).read() if os.path.isfile(path) else ""
            print(name, oct(found.st_mode), text)
        except OSError as e: print(name, errno.errorcode[e.errno])
"""


@pytest.mark.parametrize("seed", range(4))
def test_random_sequences_of_operations_answer_as_bare(base: Path, seed: int) -> None:
    """300 operations each, the same plan bare on a copy: same answers, same tree. The seed is the reproduction."""
    rng = random.Random(seed)  # noqa: S311  # a reproducible plan
    paths = [
        "a",
        "b",
        "dir",
        "dir/c",
        "dir/inside",
        "dir/inside/d",
        "other",
        "other/e",
        "folderlink/c",
        "file",
        "a/f",
        "./b",
        "dir/..",
    ]
    plan = [
        (
            rng.choice((*OPERATIONS, "chdir") if seed % 2 and n > 250 else OPERATIONS),
            rng.choice(paths),
            rng.choice(paths),
        )
        for n in range(300)
    ]
    copy = base / "copy"
    shutil.copytree(base / "tree", copy, symlinks=True)
    (copy / "abslink").unlink()
    (copy / "abslink").symlink_to(copy / "dir")
    expected = bare(SEQUENCE, [str(copy), json.dumps(plan)], str(base))
    outcome, _ = inside(base, program(SEQUENCE, str(base / "tree"), json.dumps(plan)))
    answered = outcome.output.replace(os.fsencode(base / "tree"), b"T").splitlines()
    assert answered == expected.replace(os.fsencode(copy), b"T").splitlines()


# Three processes, which make steps in turn, each in a directory of its own and with a file that it holds open.
TEAM = """
os.chdir(sys.argv[2]); plan = json.loads(sys.argv[3]); os.umask(0o022); held = [None]
def do(name, a, b):
    if name in ("write", "append"):
        with open(a, name[0]) as f: f.write(b)
    elif name == "read": return open(a).read()
    elif name == "list": return sorted(os.listdir(a))
    elif name == "stat":
        found = os.lstat(a); return [found.st_mode, 0 if os.path.isdir(a) else found.st_size]
    elif name == "hold":
        fd = os.open(a, os.O_RDWR)  # an fd for reading alone stays with the real file; an overlay's does not
        if held[0] is not None: os.close(held[0])
        held[0] = fd
    elif name == "use": return None if held[0] is None else os.pread(held[0], 100, 0).decode()
    elif name == "use to write": return None if held[0] is None else os.pwrite(held[0], b.encode(), 2)
    elif name == "truncate": os.truncate(a, 3)
    elif name == "chmod": os.chmod(a, 0o750)
    elif name == "symlink": os.symlink(b, a)
    elif name == "back": os.chdir(sys.argv[2])
    elif name in ("mkdir", "rmdir", "unlink", "chdir"): getattr(os, name)(a)
    else: getattr(os, name)(a, b)
def worker(asked, told):
    for line in asked:
        name, a, b = json.loads(line)
        try: answer = do(name, a, b)
        except OSError as e: answer = errno.errorcode[e.errno]
        told.write(json.dumps(answer) + "\\n"); told.flush()
    os._exit(0)
team = []
for n in range(3):
    (r, w), (r2, w2) = os.pipe(), os.pipe()
    if os.fork() == 0: os.close(w); worker(os.fdopen(r), os.fdopen(w2, "w"))
    os.close(r); os.close(w2); team.append((os.fdopen(w, "w"), os.fdopen(r2)))
for n, step in enumerate(plan):
    asked, told = team[n % 3]
    asked.write(json.dumps(step) + "\\n"); asked.flush(); print(json.dumps(step), told.readline().strip())
for root, folders, files in os.walk("."):
    folders.sort()
    for n in sorted([*folders, *files]):
        path = os.path.join(root, n)
        text = os.readlink(path) if os.path.islink(path) else open(path).read() if os.path.isfile(path) else ""
        print(path, oct(os.lstat(path).st_mode), text)
"""
HELD = ("hold", "use", "use", "use to write")
STEPS = 400


def mounting(base: Path) -> Callable[[], None]:
    """Return what mounts an overlay over `tree` at `copy`, in a mount namespace of the caller's own."""
    for name in ("copy", "upper", "work"):
        (base / name).mkdir()
    options = f"lowerdir={base}/tree,upperdir={base}/upper,workdir={base}/work,redirect_dir=on,index=on"
    libc = ctypes.CDLL(None, use_errno=True)

    def mount() -> None:
        private = 1 << 14 | 1 << 18  # MS_REC | MS_PRIVATE, linux/mount.h
        if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, private, None):  # CLONE_NEWNS
            raise OSError(ctypes.get_errno(), "unshare")
        if libc.mount(b"overlay", os.fsencode(base / "copy"), b"overlay", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")

    return mount


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("other", ["folder", pytest.param("overlay", marks=pytest.mark.needs("root"))])
def test_several_processes_are_answered_as_in_a_folder_and_as_in_a_real_overlay(
    base: Path, seed: int, other: str
) -> None:
    """The same plan, step by step in turn; where one works, the others stand and hold files open."""
    rng = random.Random(seed)  # noqa: S311  # a reproducible plan
    (base / "tree/abslink").unlink()
    for name in ("c", "inside/d"):
        (base / "tree/dir" / name).write_text(f"real {name}")
    os.link(base / "tree/file", base / "tree/other/e")
    top = ["a", "b", "dir", "dir/c", "dir/inside", "dir/inside/d", "other", "other/e", "folderlink/c", "file", "a/f"]
    paths = [*top, "./b", "c", "d", "dir/../file", "dir/inside/../c", "other/../b", "absent/f"]
    names = [*OPERATIONS, "stat", "stat", "read", "write", "chdir", "back", *HELD]
    plan = json.dumps([(rng.choice(names), rng.choice(paths), rng.choice(paths)) for _ in range(STEPS)])
    if other == "overlay":
        first = mounting(base)
    else:
        first = None
        shutil.copytree(base / "tree", base / "copy", symlinks=True)
        (base / "copy/other/e").unlink()
        os.link(base / "copy/file", base / "copy/other/e")
    expected = bare(TEAM, [str(base / "copy"), plan], str(base), first)
    outcome, _ = inside(base, program(TEAM, str(base / "tree"), plan))
    told = outcome.output.decode().splitlines(), expected.decode().splitlines()
    different = [pair for pair in zip(*told, strict=True) if pair[0] != pair[1]]
    assert different == []
    assert shown(outcome) > STEPS // 20


def shown(outcome: Outcome) -> int:
    """How many calls were served without the interpreter."""
    assert outcome.supervisor is not None
    return outcome.supervisor.shortly


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed here")
def test_git_works_in_a_branch_and_leaves_the_tree_alone(base: Path) -> None:
    script = """
set -e
cd "$1"; export HOME="$1" GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q . ; git add -A; git commit -qm one; echo more >> file; git commit -qam two
git gc -q; git worktree add -q wt HEAD~1; cat wt/file; git clone -q . clone; cat clone/file
git -C clone log --oneline | wc -l
git status --short | wc -l; git fsck
"""
    outcome, changes = inside(base, ["/bin/sh", "-c", script, "sh", str(base / "tree")], timeout_s=100)
    assert outcome.output.split()[:3] == [b"realrealmore", b"2", b"2"]
    assert "A clone/file" in changes


def test_a_directory_that_another_thread_closes_is_not_looked_into_by_its_number(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding a file and pinning it: its directory is renamed, forgotten and closed, and the number reused."""
    (base / "outside").mkdir()
    for folder in ("tree/dir", "outside"):
        (base / folder / "name").write_text(folder)
    reused: list[int] = []
    with Branch(str(base / "tree"), storage=str(base / "storage")) as branch:
        layer = CowLayer(branch)
        place = Location(-1, b"name")
        place.path = b"dir/name"
        lookup = branch.lookup

        def meddle() -> None:
            branch.rename(b"dir", b"away")
            branch.stat(b"other")
            reused.extend(os.open(base / "outside", os.O_PATH) for _ in range(20))

        meddler = threading.Thread(target=meddle)

        def interrupted(path: bytes) -> Found:
            found = lookup(path)
            meddler.start()
            meddler.join(0.5)  # where the branch is held it cannot come to its end
            return found

        monkeypatch.setattr(branch, "lookup", interrupted)
        pinned = layer.pinned(place)
        meddler.join()
        content = Path(f"/proc/self/fd/{pinned}").read_text()
        for fd in (*reused, pinned):
            os.close(fd)
        branch.discard()
    assert content == "tree/dir"
