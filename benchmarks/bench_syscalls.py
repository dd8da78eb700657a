"""What an untrapped system call costs inside, as a multiple of the same program bare, beside the kernel's own floors.

A floor is the least that any sandbox of this kind pays on this kernel: a filter of one instruction that allows
everything, a Landlock domain of one layer with one rule for `/`, and both. Where truncation is handled, every open for
reading walks up to the root, because the kernel looks whether the fd may truncate as well. What is above is ours.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from measure import paired, report

from sandlock import Sandbox

ROUNDS = 15
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* other programs on the machine do not count */
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int allow_everything(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static int grant_root(int truncation)
{
    const unsigned long long rights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    struct landlock_ruleset_attr handled = {.handled_access_fs = rights | (truncation ? 1 << 14 : 0)};
    int ruleset = syscall(444, &handled, sizeof handled, 0);
    struct landlock_path_beneath_attr rule = {rights, open("/", O_PATH)};
    return ruleset < 0 || syscall(445, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) || syscall(446, ruleset, 0);
}

int main(int count, char **words)
{
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (int index = 1; index < count; index++)
        if (!strcmp(words[index], "filter") ? allow_everything() : grant_root(!strcmp(words[index], "truncate")))
            return 1;
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
FLOORS = {
    "floor: a filter that allows everything": ["filter"],
    "floor: one Landlock rule for /": ["landlock"],
    "floor: the same, truncation handled": ["truncate"],
    "floor: that, and the filter": ["filter", "truncate"],
}
CALLS = (("getpid", 1_000_000), ("open and close", 100_000))


def measured(command: list[str], box: Sandbox | None) -> list[float]:
    """Seconds of both loops."""
    if box is not None:
        return [float(word) for word in box.run(command).check().stdout.split()]
    done = subprocess.run(command, capture_output=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Compile the program, run it bare, with each floor, and inside in turn."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        source, program = Path(folder, "calls.c"), str(Path(folder, "calls"))
        source.write_text(SOURCE)
        subprocess.run([shutil.which("cc") or "gcc", "-O2", "-o", program, str(source)], check=True)
        box = Sandbox(fs_readable=["/usr", "-/lib", "-/lib64", folder])
        times: dict[str, list[list[float]]] = {name: [] for name in ("bare", *FLOORS, "inside")}
        for _ in range(ROUNDS):
            for name, runs in times.items():
                runs.append(measured([program, *FLOORS.get(name, ())], box if name == "inside" else None))
    rows = []
    for column, (call, count) in enumerate(CALLS):
        for name in ("inside", *FLOORS):
            both = zip(times[name], times["bare"], strict=True)
            pairs = [(mine[column] / count, bare[column] / count) for mine, bare in both]
            rows.append(paired(f"{call}, {name}", "bare", pairs, 1.10 if name == "inside" else None, "cpu"))
    report("Untrapped system calls", rows)


if __name__ == "__main__":
    main()
