"""What the served limits cost: forks under max_processes and writes under max_disk (wall), allocation (CPU time)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from measure import paired, report

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/sandlock-notif/tests"))
from supervision import PYTHON, supervise

from sandlock import Sandbox, preset
from sandlock_notif.handlers.memory import MemoryLimit
from sandlock_notif.handlers.processes import ProcessLimit
from sandlock_notif.handlers.signals import ChildSignals
from sandlock_policy.seccomp.rules import ABSENT, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_notif import HandlerTable

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static clockid_t measured = CLOCK_PROCESS_CPUTIME_ID; /* other work on the machine does not count */

static double now(void)
{
    struct timespec t;
    clock_gettime(measured, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void forks(void)
{
    for (int i = 0; i < 500; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/true", "true", (char *)0);
            _exit(1);
        }
        if (child < 0)
            exit(1);
        waitpid(child, 0, 0);
    }
}

static void allocations(void)
{
    void *kept[512] = {0};
    unsigned seed = 1;
    for (int i = 0; i < 3000000; i++) {
        seed = seed * 1103515245 + 12345;
        unsigned slot = seed >> 16 & 511, size = seed >> 8 & 0x3fff;
        free(kept[slot]);
        kept[slot] = malloc(size + 1);
        memset(kept[slot], 1, size > 64 ? 64 : size);
    }
}

static void maps(void)
{
    for (int i = 0; i < 3000; i++) {
        volatile char *block = malloc(1 << 20);
        memset((char *)block, 1, 1 << 20);
        __asm__ volatile("" : : "r"(block) : "memory");
        free((void *)block);
    }
}

int main(int argc, char **argv)
{
    if (!strcmp(argv[1], "forks")) measured = CLOCK_MONOTONIC;
    double start = now();
    if (!strcmp(argv[1], "forks")) forks();
    if (!strcmp(argv[1], "allocations")) allocations();
    if (!strcmp(argv[1], "maps")) maps();
    printf("%.9f\n", now() - start);
    return 0;
}
"""
SORTING = """
import random, time
start = time.process_time()
for turn in range(4):
    random.seed(turn)
    words = [str(random.random()) for _ in range(150_000)]
    words.sort()
print(time.process_time() - start)
"""
WRITING = """
import os, time
fd = os.open("file", os.O_WRONLY | os.O_CREAT)
block = bytes(4096)
start = time.monotonic()
for _ in range(2000):
    os.pwrite(fd, block, 0)
print(time.monotonic() - start)
"""
ROUNDS = 9
CLONE3 = Rule("clone3", (), ABSENT, "as in the default filter")
Case = tuple[str, "list[str]", "Callable[[], Sequence[HandlerTable]]", float | None]


def inside(argv: Sequence[str], tables: Sequence[HandlerTable]) -> float:
    """Return what the program measured when it ran under the tables."""
    outcome = supervise(argv, *tables, rules=[CLONE3])
    assert outcome.code == 0, outcome
    return float(outcome.output)


def outside(argv: Sequence[str]) -> float:
    """Return what the program measured when it ran bare."""
    return float(subprocess.run(argv, capture_output=True, check=True).stdout)


def writing(max_disk: str | None) -> float:
    """Return how long a program in a served branch wrote to one open file."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        work = Path(folder, "work")
        work.mkdir()
        box = Sandbox(
            preset("python"), workdir=str(work), cwd=str(work), fs_storage=f"{folder}/storage", namespaces="off",
            max_disk=max_disk, on_exit="abort", fs_writable=[],
        )  # fmt: skip
        return float(box.run([PYTHON, "-c", WRITING]).check().stdout)


def main() -> None:
    """Compile the program, run each case bare and inside in turn."""
    pairs = [(writing("1G"), writing(None)) for _ in range(ROUNDS)]
    rows = [paired("2000 writes of 4 KiB, max_disk=1G", "no limit", pairs)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        source, program = Path(folder, "limits.c"), str(Path(folder, "limits"))
        source.write_text(SOURCE)
        subprocess.run([shutil.which("cc") or "gcc", "-O2", "-w", "-o", program, str(source)], check=True)
        for name, argv, tables, budget in cases(program):
            pairs = [(inside(argv, tables()), outside(argv)) for _ in range(ROUNDS + 2)][2:]
            rows.append(paired(name, "bare", pairs, budget, "wall" if "forks" in argv else "cpu"))
    report("Served limits", rows)


def cases(program: str) -> list[Case]:
    """Return what is measured."""
    forks = [program, "forks"]

    def ample() -> Sequence[HandlerTable]:
        return (MemoryLimit(256 << 20),)

    return [
        ("fork and exec x 500, max_processes=1000", forks, lambda: (ChildSignals(), ProcessLimit(1000)), 1.15),
        ("fork and exec x 500, max_processes=64", forks, lambda: (ChildSignals(), ProcessLimit(64)), 1.15),
        ("fork and exec x 500, max_processes=2", forks, lambda: (ChildSignals(), ProcessLimit(2)), None),
        ("no limit, the same filter otherwise", forks, lambda: (), None),
        ("malloc and free x 3,000,000, max_memory=256M", [program, "allocations"], ample, 1.02),
        ("map, fill and free 1 MiB x 3000, max_memory=256M", [program, "maps"], ample, 1.02),
        ("the same, max_memory=8M", [program, "maps"], lambda: (MemoryLimit(8 << 20),), 1.02),
        ("sorting in Python, max_memory=256M", [PYTHON, "-c", SORTING], ample, 1.02),
    ]


if __name__ == "__main__":
    main()
