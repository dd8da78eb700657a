"""Names that flip while they are looked at lead nowhere (NOT-01, NOT-02, FS-02): 20,000 tries each, no win."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from supervision import supervise
from test_files_denied import ALL, READ, base

from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]
_ = base  # the fixture

TRIES = 10_000  # by root, and as many by an ordinary user: 20,000 of each

# Each mode flips one thing in a child process, or thread, while the main one opens and reads: prints tries, wins and
# how often the harmless file was read (the control: the flipping does reach it).
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char *path; /* shared, so that a process can flip it too */
static volatile int stop;

static void *flip_memory(void *unused)
{
    for (unsigned n = 0; !stop; n++)
        memcpy(path + 4, n & 1 ? "ok" : "no", 2); /* dir/ok, dir/no */
    return 0;
}

static void flip_names(const char *one, const char *other)
{
    for (;;)
        syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2);
}

static int try(const char *mode)
{
    char text[8] = "", link[64];
    int fd;
    if (!strcmp(mode, "chdir")) {
        if (chdir("folder") == 0) {
            fd = open("file", O_RDONLY);
            if (chdir(getenv("TREE")) != 0)
                exit(4);
        } else
            return 0;
    } else if (!strcmp(mode, "handle")) {
        int handle = open(path, O_PATH);
        if (handle < 0)
            return 0;
        snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
        fd = open(link, O_RDONLY);
        close(handle);
    } else
        fd = open(path, O_RDONLY);
    if (fd < 0)
        return 0;
    long got = read(fd, text, 6);
    close(fd);
    return got == 6 && !memcmp(text, "canary", 6) ? 2 : got == 4 ? 1 : 0;
}

int main(int argc, char **argv)
{
    const char *mode = argv[1];
    int tries = atoi(argv[2]), wins = 0, controls = 0, done = 0;
    path = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(path, "dir/ok");
    if (chdir(getenv("TREE")) != 0)
        return 5;
    pthread_t thread;
    pid_t child = 0;
    int threaded = !strcmp(mode, "thread") || !strcmp(mode, "handle");
    if (threaded)
        pthread_create(&thread, 0, flip_memory, 0);
    else if ((child = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!strcmp(mode, "shared"))
            flip_memory(0);
        else if (!strcmp(mode, "link"))
            flip_names("flip", "flop");
        else
            flip_names("folder", "hidden");
    }
    if (!strcmp(mode, "link"))
        strcpy(path, "flip");
    if (!strcmp(mode, "parent"))
        strcpy(path, "folder/file");
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (; done < tries; done++) {
        int result = try(mode);
        wins += result == 2;
        controls += result == 1;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec > 60)
            break;
    }
    stop = 1;
    if (threaded)
        pthread_join(thread, 0);
    else
        kill(child, SIGKILL);
    printf("%d %d %d\n", done, wins, controls);
    return 0;
}
"""


@pytest.mark.parametrize("mode", ["thread", "shared", "link", "parent", "chdir", "handle"])
def test_not_01_not_02_fs_02_no_flip_wins(
    base: Path, mode: str, compile_c: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = base / "tree"
    (tree / "dir/ok").write_text("fine")
    (tree / "dir/no").write_text("canary")
    (tree / "flip").symlink_to("dir/ok")
    (tree / "flop").symlink_to("dir/no")
    (tree / "folder").mkdir()
    (tree / "folder/file").write_text("fine")
    (tree / "hidden").mkdir()
    denied = [tree / "dir/no"]
    if mode == "parent":  # another name of the denied file, in a folder whose name flips
        (tree / "hidden/file").hardlink_to(tree / "dir/no")
    else:
        (tree / "hidden/file").write_text("fine")
    if mode == "chdir":  # a folder below a denied one, made after it was looked at, and a link that flips to it
        (tree / "folder/file").unlink()
        (tree / "folder").rmdir()
        (tree / "hidden/file").unlink()
        (tree / "hidden").rmdir()
        (tree / "other/file").write_text("fine")
        (tree / "folder").symlink_to("other")
        (tree / "hidden").symlink_to("dir/later")
        denied = [tree / "dir"]
    view = View(denied=[os.fsencode(path) for path in denied])
    if mode == "chdir":
        view_attach = view.attach

        def attach(services: object) -> None:
            view_attach(services)  # type: ignore[arg-type]  # passed on
            (tree / "dir/later").mkdir()
            (tree / "dir/later/file").write_text("canary")

        monkeypatch.setattr(view, "attach", attach)
    monkeypatch.setenv("TREE", str(tree))
    program = compile_c(SOURCE)
    grants = [(b"/", READ), (os.fsencode(base), ALL)]
    argv = ["/usr/bin/env", f"TREE={tree}", str(program), mode, str(TRIES)]
    outcome = supervise(argv, FilesTable(view), grants=grants, timeout_s=110)
    done, wins, controls = map(int, outcome.output.split())
    assert done == TRIES
    assert wins == 0
    assert controls > 0
    assert not [event for event in outcome.events if event.kind == "fault"]
