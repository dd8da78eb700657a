"""What file calls cost below a view, as multiples of one notification that a loop in C answers (the floor)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Row, report

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/sandlock-notif/tests"))
from supervision import supervise

from sandlock_cow.branch import Branch
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 5000 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
    struct stat found;
    for (int k = 0; k < 500; k++)
        close(open(argv[1], O_RDONLY));
    double start = now();
    for (int k = 0; k < COUNT; k++)
        syscall(SYS_newfstatat, AT_FDCWD, argv[1], &found, 0);
    printf("%.1f ", (now() - start) / COUNT);
    start = now();
    for (int k = 0; k < COUNT; k++)
        close(open(argv[1], O_RDONLY));
    printf("%.1f\n", (now() - start) / COUNT);
    return 0;
}
"""
NAMES = ("stat", "open and close")
BUDGETS = (2.5, 4.0)
READ = 1 | 4 | 8  # LANDLOCK_ACCESS_FS_EXECUTE, READ_FILE, READ_DIR


def floor_ns(program: str) -> float:
    """Nanoseconds of one notification, answered in C."""
    return float(subprocess.run([program, "floor", "20000"], capture_output=True, check=True).stdout)


def served_ns(view: View, argv: list[str]) -> list[float]:
    """Nanoseconds of each call below a view."""
    return [float(word) for word in supervise(argv, FilesTable(view), grants=[(b"/", READ)]).output.split()]


def main() -> None:
    """Measure the floor, a view with a denied path and a copy-on-write directory in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        source, program, floor = (str(Path(folder, name)) for name in ("calls.c", "calls", "floor"))
        Path(source).write_text(SOURCE)
        compiler = shutil.which("cc") or "gcc"
        subprocess.run([compiler, "-O2", "-static", "-o", program, source], check=True)
        subprocess.run([compiler, "-O2", "-o", floor, str(Path(__file__).parent / "served_calls.c")], check=True)
        tree = Path(folder, "tree")
        tree.mkdir()
        Path(tree, "file").write_text("content")
        results: dict[str, list[float]] = {}
        for _ in range(9):
            base = floor_ns(floor)
            argv = [program, str(tree / "file")]
            denied = served_ns(View(denied=[os.fsencode(tree / "denied")]), argv)
            with Branch(str(tree), storage=str(Path(folder, "storage"))) as branch:
                copied = served_ns(View(branches=[branch]), argv)
                branch.discard()
            for kind, values in (("denied path", denied), ("copy-on-write", copied)):
                for name, value in zip(NAMES, values, strict=True):
                    results.setdefault(f"{name}, {kind}", []).append(value / base)
                    results.setdefault(f"{name}, {kind}, ms", []).append(value / 1e6)
    for name, ratios in results.items():
        if not name.endswith(", ms"):
            ratios.sort()
            each_ms = sorted(results[f"{name}, ms"])[len(ratios) // 2]
            budget = BUDGETS[NAMES.index(name.partition(",")[0])]
            rows.append(
                Row(name, "one notification in C", each_ms, ratios[len(ratios) // 2], ratios[0], ratios[-1], budget)
            )
    report("files", rows)


if __name__ == "__main__":
    main()
