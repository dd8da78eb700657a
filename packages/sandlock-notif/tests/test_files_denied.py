"""A denied path is refused to every call, by every name of the call and of the object (FS-01 to FS-08, SEC-18)."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from file_calls import CALLS, bare, names, program
from supervision import Outcome, supervise

from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]

READ, ALL = 1 | 4 | 8, (1 << 16) - 1  # LANDLOCK_ACCESS_FS_*, linux/landlock.h

# Paths to the object `N` of the folder `tree/dir`, from cwd `tree`, as (directory fd or None, path).
ALIASES = {
    "absolute": (None, "{base}/tree/dir/{name}"),
    "relative": (None, "dir/{name}"),
    "dirfd": ("dir", "{name}"),
    "dotdot": (None, "dir/../other/../dir/{name}"),
    "slashes": (None, "{base}//tree/.//dir/./{name}"),
    "linked-folder": (None, "folderlink/{name}"),
    "absolute-link": (None, "{base}/tree/abslink/{name}"),
    "proc-root": (None, "/proc/self/root{base}/tree/dir/{name}"),
    "proc-cwd": (None, "/proc/self/cwd/dir/{name}"),
    "proc-thread": (None, "/proc/thread-self/cwd/dir/{name}"),
    "proc-fd": (None, "/proc/self/fd/{fd}/{name}"),
    "dev-fd": (None, "/dev/fd/{fd}/{name}"),
    "renamed-parent": (None, "moved/{name}"),
}

CODE = """
base, alias, template, through, rows = sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5], json.loads(sys.argv[6])
os.chdir(base + "/tree")
if alias == "renamed-parent":
    os.rename("dir", "moved")
real = base + "/tree/" + ("moved" if alias == "renamed-parent" else "dir")
held = os.open(real, os.O_PATH)
directory = held if through else -100
watch = numbers and libc.inotify_init1(0o4000)
def fresh(path):
    for one in (path, base + "/tree/F", base + "/tree/H"):
        if os.path.isdir(one) and not os.path.islink(one): shutil.rmtree(one)
        elif os.path.lexists(one): os.unlink(one)
    with open(path, "w") as f: f.write("content")
    with open(base + "/tree/H", "w") as f: f.write("content")
answers = {}
for name in sys.argv[7:]:
    for row, arguments in rows.items():
        if not through or arguments.startswith(("D", "-100, H, D", "b'x', D")):
            if name == "ok": fresh(real + "/ok")
            else: fresh(base + "/tree/unused")
            xargs.raw = (ctypes.addressof(buf)).to_bytes(8, "little") + (4).to_bytes(4, "little") + bytes(4)
            P = os.fsencode(template.format(base=base, name=name, fd=held))
            tree = os.fsencode(base) + b"/tree"
            place = dict(globals(), P=P, D=directory, F=tree + b"/F", H=tree + b"/H")
            result, error = call(row.partition(":")[0], *eval("(" + arguments + ",)", place))
            if result > 2 and row.startswith(("open", "creat")): os.close(result)
            answers[name + " " + row] = error
            os.chdir(base + "/tree")
print(json.dumps(answers))
"""


@pytest.fixture
def base() -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="sandlock-denied-"))
    (folder / "tree/dir/inside").mkdir(parents=True)
    (folder / "tree/other").mkdir()
    (folder / "tree/folderlink").symlink_to("dir")
    (folder / "tree/abslink").symlink_to(folder / "tree/dir")
    yield folder
    shutil.rmtree(folder)


def served(base: Path, view: View, argv: list[str], timeout_s: float = 60.0) -> Outcome:
    grants = [(b"/", READ), (os.fsencode(base), ALL), (b"/dev", ALL)]
    outcome = supervise(argv, FilesTable(view), grants=grants, timeout_s=timeout_s)
    assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
    return outcome


def arguments(base: Path, alias: str, *wanted: str) -> list[str]:
    through, template = ALIASES[alias]
    return [str(base), alias, template, through or "", json.dumps(names()), *wanted]


@pytest.mark.parametrize("alias", ALIASES)
def test_sec_18_fs_04_every_call_by_every_alias_is_refused_and_its_neighbour_is_as_bare(base: Path, alias: str) -> None:
    """The neighbour in the same folder is the positive control: each call answers there what it answers bare."""
    secret = base / "tree/dir/no"
    secret.write_text("canary")
    before = os.lstat(secret)
    expected = json.loads(bare(CODE, arguments(base, alias, "ok"), str(base)))
    if alias == "renamed-parent":
        os.rename(base / "tree/moved", base / "tree/dir")
    view = View(denied=[os.fsencode(secret)], writable=[os.fsencode(base)])
    outcome = served(base, view, program(CODE, *arguments(base, alias, "ok", "no")))
    answers = json.loads(outcome.output)
    assert {row: answer for row, answer in answers.items() if row.startswith("ok ")} == expected
    refused = {row: answer for row, answer in answers.items() if row.startswith("no ")}
    assert len(refused) == len(expected)
    wrong = {row: answer for row, answer in refused.items() if answer != "EACCES"}
    assert not wrong
    moved = base / ("tree/moved/no" if alias == "renamed-parent" else "tree/dir/no")
    after = os.lstat(moved)
    assert moved.read_text() == "canary"
    same = ("st_ino", "st_mode", "st_uid", "st_nlink", "st_size", "st_mtime_ns")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]


HELPERS = """
def t(label, f, *a, **k):
    try: f(*a, **k); print(label, "ok")
    except OSError as e: print(label, errno.errorcode[e.errno])
os.chdir(sys.argv[2])
"""


def told(outcome: Outcome) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in outcome.output.decode().splitlines())


def test_fs_05_a_hard_link_that_was_there_before_is_refused_and_none_can_be_made(base: Path) -> None:
    (base / "tree/no").write_text("canary")
    (base / "tree/alias").hardlink_to(base / "tree/no")
    (base / "tree/dir/file").write_text("canary")
    (base / "tree/outside").hardlink_to(base / "tree/dir/file")
    code = f"""{HELPERS}
t("alias", open, "alias"); t("outside", open, "outside"); t("stat", os.stat, "outside")
t("move", os.rename, "alias", "x")
t("link", os.link, "no", "other/x"); t("linked", os.symlink, "../no", "other/l")
print("follow", call("linkat", -100, b"other/l", -100, b"other/y", 0x400)[1])
t("control", os.link, "other/l", "other/z", follow_symlinks=False)
"""
    view = View(denied=[os.fsencode(base / "tree/no"), os.fsencode(base / "tree/dir")])
    assert told(served(base, view, program(code, str(base / "tree")))) == {
        "alias": "EACCES",
        "outside": "EACCES",
        "stat": "EACCES",
        "move": "EACCES",
        "link": "EACCES",
        "linked": "ok",
        "follow": "EACCES",
        "control": "ok",
    }


def test_fs_06_nothing_is_put_in_the_place_of_a_denied_name_nor_it_elsewhere(base: Path) -> None:
    (base / "tree/dir/no").write_text("canary")
    (base / "tree/new").write_text("mine")
    code = f"""{HELPERS}
t("onto", os.rename, "new", "dir/no"); t("away", os.rename, "dir/no", "gone")
print("exchange", call("renameat2", -100, b"new", -100, b"dir/no", 2)[1])
print("exchange-back", call("renameat2", -100, b"dir/no", -100, b"new", 2)[1])
t("parent", os.rename, "dir", "moved"); t("below", open, "moved/no"); t("empty", shutil.rmtree, "moved")
t("control", os.rename, "new", "moved/new")
"""
    view = View(denied=[os.fsencode(base / "tree/dir/no")])
    answers = told(served(base, view, program(code, str(base / "tree"))))
    assert answers.pop("parent") == "ok"
    assert answers.pop("control") == "ok"
    assert set(answers.values()) == {"EACCES"}
    assert (base / "tree/moved/no").read_text() == "canary"


def test_fs_07_what_is_made_later_under_a_denied_name_is_refused(base: Path) -> None:
    code = f"""{HELPERS}
t("link", os.symlink, "dir", "a"); t("file", open, "a", "w"); t("move", os.rename, "dir", "a")
t("hard", os.link, "f", "a"); t("fifo", os.mkfifo, "a")
t("mkdir", os.mkdir, "a"); t("mkdir-b", os.mkdir, "a/b"); t("mkdir-no", os.mkdir, "a/b/no")
t("create", open, "a/b/no", "w"); t("other", open, "a/b/ok", "w"); t("onto", os.rename, "a/b/ok", "a/b/no")
t("symlink", os.symlink, "ok", "a/b/no"); t("stat", os.stat, "a/b/no")
os.rename("a", "z"); os.chdir("z/b")
t("renamed", open, "no", "w"); t("renamed-other", open, "fine", "w"); t("plain", open, {str(base / "tree/f2")!r}, "w")
"""
    (base / "tree/f").write_text("")
    view = View(denied=[os.fsencode(base / "tree/a/b/no")])
    answers = told(served(base, view, program(code, str(base / "tree"))))
    assert {label for label, answer in answers.items() if answer == "ok"} == {
        "mkdir",
        "mkdir-b",
        "other",
        "renamed-other",
        "plain",
    }
    assert {answer for answer in answers.values() if answer != "ok"} == {"EACCES"}
    assert not (base / "tree/z/b/no").exists()


def test_fs_07_what_somebody_outside_makes_there_is_refused(base: Path) -> None:
    code = f"""{HELPERS}
t("before", open, "a/no"); print("made", flush=True) ; sys.stdin.read(1) if 0 else None
import time
for _ in range(2000):
    if os.path.exists("flag"): break
    time.sleep(0.005)
t("after", open, "a/no"); t("control", open, "a/ok"); t("below", open, "a/deep/no")
"""

    def outside(*_: object) -> None:
        time.sleep(0.2)
        (base / "tree/a").mkdir()
        (base / "tree/a/no").write_text("canary")
        (base / "tree/a/ok").write_text("fine")
        (base / "tree/flag").write_text("")

    view = View(denied=[os.fsencode(base / "tree/a/no")])
    grants = [(b"/", READ), (os.fsencode(base), ALL)]
    outcome = supervise(
        program(code.replace('print("made", flush=True)', "0"), str(base / "tree")),
        FilesTable(view),
        grants=grants,
        while_running=outside,
    )
    answers = told(outcome)
    assert (answers["after"], answers["control"]) == ("EACCES", "ok")


def test_a_denied_folder_is_refused_with_everything_in_it(base: Path) -> None:
    (base / "tree/dir/inside/deep").mkdir()
    (base / "tree/dir/inside/deep/file").write_text("canary")
    code = f"""{HELPERS}
for path in ("dir", "dir/inside", "dir/inside/deep/file", "dir/absent", "folderlink/inside", "dir/../dir/inside"):
    t(path, os.stat, path)
t("enter", os.chdir, "dir/inside"); t("list", os.listdir, "dir"); t("make", os.mkdir, "dir/new")
t("into", os.rename, "other", "dir/other"); t("control", os.chdir, "other"); t("up", os.stat, "../dir/inside")
"""
    view = View(denied=[os.fsencode(base / "tree/dir")])
    answers = told(served(base, view, program(code, str(base / "tree"))))
    assert answers.pop("control") == "ok"
    assert set(answers.values()) == {"EACCES"}


def test_a_program_that_stands_in_a_denied_folder_gets_nothing_there(base: Path) -> None:
    """However it came there: a chdir is judged before it is made, and the kernel reads the path again (NOT-01)."""
    (base / "tree/dir/inside/file").write_text("canary")
    code = """
t = []
for path in ("file", "./file", "../inside/file", ".", "..", "/proc/self/cwd/file", "/proc/self/cwd"):
    try: os.close(os.open(path, os.O_RDONLY)); t.append("ok")
    except OSError as e: t.append(errno.errorcode[e.errno])
print(*t); os.open(sys.argv[2], os.O_RDONLY); print("control")
"""
    view = View(denied=[os.fsencode(base / "tree/dir")])
    grants = [(b"/", READ)]
    outcome = supervise(
        program(code, str(base / "tree/other")), FilesTable(view), grants=grants, cwd=str(base / "tree/dir/inside")
    )
    assert outcome.output.decode().split() == ["EACCES"] * 7 + ["control"]


def test_paths_are_denied_and_allowed_again_while_the_program_runs(base: Path) -> None:
    for name in ("always", "sometimes"):
        (base / "tree" / name).write_text("canary")
    code = f"""{HELPERS}
for step in range(3):
    while not os.path.exists(f"step{{step}}"): os.getppid()
    for name in ("always", "sometimes"): t(f"{{step}}-{{name}}", open, name)
    open(f"done{{step}}", "w").close()
"""
    view = View(denied=[os.fsencode(base / "tree/always")])

    async def steps(*_: object) -> None:
        from asyncio import sleep

        sometimes, always = (os.fsencode(base / "tree" / name) for name in ("sometimes", "always"))
        for step in range(3):
            if step == 1:
                view.denials.deny(sometimes)
            if step == 2:
                view.denials.allow(sometimes)
                view.denials.allow(always)
            (base / f"tree/step{step}").write_text("")
            while not (base / f"tree/done{step}").exists():  # noqa: ASYNC110  # another process makes it
                await sleep(0.01)

    grants = [(b"/", READ), (os.fsencode(base), ALL)]
    outcome = supervise(program(code, str(base / "tree")), FilesTable(view), grants=grants, while_running=steps)
    answers = told(outcome)
    assert [answers[f"{step}-sometimes"] for step in range(3)] == ["ok", "EACCES", "ok"]
    assert [answers[f"{step}-always"] for step in range(3)] == ["EACCES"] * 3


def test_a_bad_path_is_an_error_and_the_root_cannot_be_denied() -> None:
    for path in (b"relative", b"/a/../b", b"/nul\0"):
        with pytest.raises(ValueError, match="not an absolute path"):
            View(denied=[path])


def test_a_view_without_layers_traps_nothing() -> None:
    assert FilesTable(View()).traps() == []
    assert {trap.syscall for trap in FilesTable(View(denied=[b"/x"])).traps()} >= {
        row.partition(":")[0] for row in CALLS
    }
