"""What an untrapped system call costs inside, as a multiple of the same program bare."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from measure import Row, report

from sandlock import Sandbox

SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(void)
{
    double start = now();
    for (int i = 0; i < 1000000; i++)
        syscall(SYS_getpid);
    printf("%.9f ", now() - start);
    start = now();
    for (int i = 0; i < 100000; i++)
        close(open("/usr/bin/env", O_RDONLY));
    printf("%.9f\n", now() - start);
    return 0;
}
"""


def main() -> None:
    """Compile the program, run it bare and inside in turn."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        source, program = Path(folder, "calls.c"), str(Path(folder, "calls"))
        source.write_text(SOURCE)
        subprocess.run([shutil.which("cc") or "gcc", "-O2", "-o", program, str(source)], check=True)
        box = Sandbox(fs_readable=["/usr", "-/lib", "-/lib64", folder])
        inside, bare = [], []
        for _ in range(15):
            outside = subprocess.run([program], capture_output=True, check=True)
            bare.append([float(word) for word in outside.stdout.split()])
            inside.append([float(word) for word in box.run([program]).check().stdout.split()])
    rows = []
    for column, (name, count) in enumerate((("getpid", 1_000_000), ("open and close", 100_000))):
        ratios = sorted(mine[column] / other[column] for mine, other in zip(inside, bare, strict=True))
        each_ms = sorted(mine[column] for mine in inside)[len(inside) // 2] / count * 1e3
        rows.append(Row(name, "bare", each_ms, ratios[len(ratios) // 2], ratios[1], ratios[-2], 1.10))
    report("Untrapped system calls", rows)


if __name__ == "__main__":
    main()
