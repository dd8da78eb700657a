"""What file calls cost below a view, as multiples of one notification that a loop in C answers (the floor).

What an open costs the kernel alone, when such a loop answers it with an fd that it has, is a comparison of its own: the
fd is put into the program by two more turns of the scheduler.

Each is compared by the clock and by the cpu time of all that takes part: on a busy machine only the latter says much.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import paired, report

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/sandlock-notif/tests"))
from supervision import supervise

from sandlock_cow.branch import Branch
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void call(const char *what, const char *path)
{
    struct stat found;
    if (!strcmp(what, "stat"))
        syscall(SYS_newfstatat, AT_FDCWD, path, &found, 0);
    else if (!strcmp(what, "access"))
        faccessat(AT_FDCWD, path, R_OK, 0);
    else
        close(open(path, O_RDONLY));
}

int main(int argc, char **argv)
{
    int count = atoi(argv[3]);
    for (int k = 0; k < 500; k++)
        call(argv[2], argv[1]);
    double start = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID);
    for (int k = 0; k < count; k++)
        call(argv[2], argv[1]);
    printf("%.1f %.1f\n", (now(CLOCK_MONOTONIC) - start) / count, (now(CLOCK_PROCESS_CPUTIME_ID) - used) / count);
    return 0;
}
"""
BUDGETS = {"stat": 2.5, "access": 2.5, "open and close": 4.0}
WARM_UP, COUNT, FLOOR = 500, 5000, 20_000
READ = 1 | 4 | 8  # LANDLOCK_ACCESS_FS_EXECUTE, READ_FILE, READ_DIR
Cost = tuple[float, float]
"""Nanoseconds of one call by the clock, and of cpu time."""


def floor_ns(program: str, kind: str = "floor") -> Cost:
    """Return what one notification costs that is answered in C: with a value, or for `open` with an fd."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run([program, kind, str(FLOOR)], capture_output=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(output), used_s * 1e9 / (FLOOR + 1000)  # served_calls.c warms up with 1,000


def served_ns(view: View, program: str, path: str, what: str, count: int = COUNT) -> Cost:
    """Return what one call below a view costs; the launch is in the cpu time."""
    before = time.process_time_ns()
    outcome = supervise([program, path, what, str(count)], FilesTable(view), grants=[(b"/", READ)])
    here = time.process_time_ns() - before
    wall, used = (float(word) for word in outcome.output.split())
    return wall, used + here / (count + WARM_UP)


def main() -> None:
    """Measure the floor, a view with a denied path and a copy-on-write directory in turn."""
    results: dict[tuple[str, str], list[tuple[Cost, Cost]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        source, program, floor = (str(Path(folder, name)) for name in ("calls.c", "calls", "floor"))
        Path(source).write_text(SOURCE)
        compiler = shutil.which("cc") or "gcc"
        subprocess.run([compiler, "-O2", "-static", "-o", program, source], check=True)
        subprocess.run([compiler, "-O2", "-o", floor, str(Path(__file__).parent / "served_calls.c")], check=True)
        tree = Path(folder, "tree")
        tree.mkdir()
        path = str(tree / "file")
        Path(path).write_text("content")
        for _ in range(9):
            base = floor_ns(floor)
            alone = floor_ns(floor, "open")
            results.setdefault(("open and close", "nothing but the fd, in C"), []).append((alone, base))
            for what in BUDGETS:
                denied = served_ns(View(denied=[os.fsencode(tree / "denied")]), program, path, what)
                results.setdefault((what, "denied path"), []).append((denied, base))
                with Branch(str(tree), storage=str(Path(folder, "storage"))) as branch:
                    copied = served_ns(View(branches=[branch]), program, path, what)
                    branch.discard()
                results.setdefault((what, "copy-on-write"), []).append((copied, base))
    rows = []
    for (what, kind), pairs in results.items():
        for index, clock in enumerate(("wall", "cpu")):
            each = [(ours[index] / 1e9, floor[index] / 1e9) for ours, floor in pairs]
            budget = None if "in C" in kind else BUDGETS[what]
            rows.append(paired(f"{what}, {kind}", "one notification in C", each, budget, clock))
    report("File calls below a view", rows)


if __name__ == "__main__":
    main()
