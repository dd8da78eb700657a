"""Calls that a view does not touch are served without the interpreter; nobody who has to be asked is passed over."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from supervision import Outcome, supervise, table
from test_files_denied import ALL, READ, base

from sandlock_cow import Branch
from sandlock_cow.tree import Tree
from sandlock_notif import HandlerTable, Request, Supervisor, Trap
from sandlock_notif.action import Action
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable
from sandlock_sys.shortcut import Shortcut

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]
_ = base  # the fixture

# Stats, opens and reads a file by its whole path and a short one, N times each: prints how often which call failed.
SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int bad_stat = 0, bad_open = 0, wrong = 0;
    struct stat found;
    if (chdir(argv[1]) != 0)
        return 1;
    for (int n = 0; n < 2 * atoi(argv[3]); n++) {
        char whole[4096], text[8] = "";
        snprintf(whole, sizeof whole, "%s/%s", argv[1], argv[2]);
        const char *path = n & 1 ? argv[2] : whole;
        bad_stat += stat(path, &found) != 0;
        int fd = open(path, O_RDONLY);
        if (fd < 0) {
            bad_open++;
            continue;
        }
        wrong += read(fd, text, 7) != found.st_size || memcmp(text, "fine", 4);
        close(fd);
    }
    printf("%d %d %d\n", bad_stat, bad_open, wrong);
    return 0;
}
"""
TRIES = 50


@pytest.fixture
def run(base: Path, compile_c: Callable[..., Path]) -> Callable[..., Outcome]:
    """`run(name, *tables)`: the program above in a tree with a denied file."""
    tree = base / "tree"
    (tree / "dir/ok").write_text("fine")
    (tree / "dir/no").write_text("fine too")
    program = compile_c(SOURCE)

    def start(name: str, *tables: HandlerTable) -> Outcome:
        argv = [str(program), str(tree / "dir"), name, str(TRIES)]
        return supervise(argv, *tables, grants=[(b"/", READ), (os.fsencode(base), ALL)])

    return start


def denying(base: Path) -> FilesTable:
    return FilesTable(View(denied=[os.fsencode(base / "tree/dir/no")]))


def shortly(supervisor: Supervisor | None) -> int:
    """How many calls were served without the interpreter."""
    assert supervisor is not None
    return supervisor.shortly


def test_most_calls_are_served_without_being_asked_about(base: Path, run: Callable[..., Outcome]) -> None:
    outcome = run("ok", denying(base))
    assert outcome.output == b"0 0 0\n"
    assert shortly(outcome.supervisor) > 2 * TRIES
    assert outcome.supervisor is not None
    assert outcome.supervisor.served >= 4 * TRIES
    answered = outcome.supervisor.answered()
    assert sum(answered.values()) == outcome.supervisor.served, "each is counted under its name, whoever served it"
    assert max(answered.values()) >= TRIES


def test_what_is_denied_is_refused_each_time(base: Path, run: Callable[..., Outcome]) -> None:
    outcome = run("no", denying(base))
    assert outcome.output == b"%d %d 0\n" % (2 * TRIES, 2 * TRIES)
    assert len([event for event in outcome.events if event.kind == "denied"]) >= 4 * TRIES


@pytest.mark.parametrize("first", [True, False])
def test_whoever_comes_first_is_asked_about_every_call(base: Path, run: Callable[..., Outcome], *, first: bool) -> None:
    seen: list[int] = []

    def handle(request: Request) -> Action | None:
        seen.append(request.nr)
        return None

    files, mine = denying(base), table("openat", handle)
    outcome = run("ok", *((mine, files) if first else (files, mine)))
    assert outcome.output == b"0 0 0\n"
    assert len(seen) >= 2 * TRIES if first else not seen
    assert shortly(outcome.supervisor) > TRIES  # the other calls


class Failing(HandlerTable):
    """Comes first, and cannot say what may be served."""

    name = "failing"

    def traps(self) -> Sequence[Trap]:
        return ()

    def shorten(self, shortcut: Shortcut) -> None:
        raise OSError(errno.EMFILE, "no room")


@pytest.mark.parametrize("last", [True, False])
def test_where_a_table_cannot_say_what_may_be_served_everything_is_asked_about(
    base: Path, run: Callable[..., Outcome], *, last: bool
) -> None:
    outcome = run("no", *((denying(base), Failing()) if last else (Failing(), denying(base))))
    assert outcome.output == b"%d %d 0\n" % (2 * TRIES, 2 * TRIES)
    assert shortly(outcome.supervisor) == 0
    assert any("no room" in event.reason for event in outcome.events if event.kind == "fault")


# Looks at a file that somebody renames and renames back until it is told to stop: prints how often it was there, was
# not, and had the size that it has in the real tree.
LOOKS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int there = 0, absent = 0, real = 0;
    struct stat found;
    if (chdir(argv[1]) != 0)
        return 1;
    for (int n = 0; stat(argv[2], &found) != 0 && n < 2000000; n++) {
        int gone = stat("dir/file", &found) != 0;
        absent += gone;
        there += !gone && found.st_size != 4;
        real += !gone && found.st_size == 4;
    }
    printf("%d %d %d\n", there, absent, real);
    return 0;
}
"""


@pytest.mark.parametrize("told", [True, False], ids=["told", "naive"])
def test_a_branch_that_another_thread_changes_never_shows_the_real_file(
    base: Path, compile_c: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Between the two steps of a rename the upper layer has neither the file nor what hides the real one."""
    whiteout = Tree.whiteout
    if not told:
        monkeypatch.setattr(Shortcut, "begin", lambda _: None)
        monkeypatch.setattr(Shortcut, "end", lambda _: None)

    def slowly(tree: Tree) -> bytes:
        time.sleep(0.002)
        return whiteout(tree)

    monkeypatch.setattr(Tree, "whiteout", slowly)
    tree = base / "tree"
    (tree / "dir/file").write_text("real")
    stop = base / "stop"

    def flip(branch: Branch) -> None:
        for _ in range(150):
            branch.rename(b"dir/file", b"dir/away")
            time.sleep(0.001)
            branch.rename(b"dir/away", b"dir/file")
            time.sleep(0.001)
        stop.touch()

    with Branch(str(tree), storage=str(base / "storage")) as branch:
        fd = branch.open(b"dir/file", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, b"of the branch")
        os.close(fd)
        thread = threading.Thread(target=flip, args=(branch,))
        argv = [str(compile_c(LOOKS)), str(tree), str(stop)]
        outcome = supervise(
            argv, FilesTable(View(branches=[branch])), grants=[(b"/", READ)], while_running=lambda *_: thread.start()
        )
        thread.join()
    there, absent, real = map(int, outcome.output.split())
    assert there, "it is there at times"
    assert absent, "and at times it is not"
    assert bool(real) is not told
    assert shortly(outcome.supervisor) > 100


def test_who_holds_a_lease_on_a_file_of_a_branch_holds_nobody_else_up(
    base: Path, compile_c: Callable[..., Path]
) -> None:
    tree, signs = base / "tree", base / "signs"
    signs.mkdir()
    for name in ("leased", "plain"):
        (tree / name).write_text("fine")
    program = compile_c(r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    if (chdir(argv[1])) return 1;
    if (fork() == 0) {
        int fd = open("leased", O_RDONLY);
        printf("%d %d ", fd >= 0, fcntl(fd, F_GETFL) & (O_NONBLOCK | O_APPEND | O_ACCMODE));
        return 0;
    }
    int good = 0;
    for (int n = 0; n < 200; n++) {
        int fd = open("plain", n & 1 ? O_RDONLY : O_RDONLY | O_NONBLOCK | O_APPEND | O_CLOEXEC);
        int flags = fcntl(fd, F_GETFL) & (O_NONBLOCK | O_APPEND | O_ACCMODE);
        good += flags == (n & 1 ? 0 : O_NONBLOCK | O_APPEND) && fcntl(fd, F_GETFD) == !(n & 1);
        close(fd);
        usleep(1000);
    }
    close(open(argv[2], O_CREAT | O_WRONLY, 0600));
    wait(0);
    printf("%d\n", good);
    return 0;
}
""")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(tree / "leased", os.O_RDWR)
    seen: list[bool] = []
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            pytest.skip("no leases on this file system")

        async def release(*_: object) -> None:
            for _try in range(2000):
                if (signs / "done").exists():
                    break
                await asyncio.sleep(0.005)
            seen.append((signs / "done").exists())
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

        with Branch(str(tree), storage=str(base / "storage")) as branch:
            grants = [(b"/", READ), (os.fsencode(signs), ALL)]
            argv = [str(program), str(tree), str(signs / "done")]
            outcome = supervise(argv, FilesTable(View(branches=[branch])), grants=grants, while_running=release)
            branch.discard()
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    assert outcome.output == b"1 0 200\n"
    assert seen == [True], "others were served before the lease was given up"
    assert shortly(outcome.supervisor) >= 200
