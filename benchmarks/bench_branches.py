"""What real work costs in a copy-on-write folder, as a multiple of the same work bare: both ways of showing a branch.

*overlay* is a mount of the kernel's (namespaces), *served* the supervisor (`namespaces="off"`). Each round starts from
the same tree; what was written is dropped, so no commit is in it, nor is the launch: `bench_launch.py` has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from measure import paired, report

from sandlock import Sandbox

FILES, WHEEL, SOURCES = 5000, 3670, 100
ROUNDS = 3
WAYS = {"overlay": "auto", "served": "off"}
READ = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/alternatives", "/dev/urandom"]
ENV = {"PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nowhere", "LC_ALL": "C"}
TIMED = "start=$(date +%s%N); {{ {0}; }} > /dev/null 2>&1 || exit 1; echo $(($(date +%s%N) - start))"
UNPACK = "import zipfile; zipfile.ZipFile('../wheel.whl').extractall('unpacked')"
# name: (the command, in the folder `tree`; budgets of the two ways)
WORK = {
    f"git status of {FILES} files": ("git status", None, 4.0),
    f"unpacking a wheel of {WHEEL} files": (f'/usr/bin/python3 -I -S -c "{UNPACK}"', None, 3.0),
    "git clone": ("git clone -q --no-hardlinks . clone", None, 2.0),
    f"compiling {SOURCES} files": ("for i in src/*.c; do gcc -O1 -c $i -o $i.o; done", None, 1.3),
}


def main() -> None:
    """Grow the tree, then do each work bare and both ways in turn."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        base = Path(folder)
        grow(base)
        rows = []
        for name, (command, *budgets) in WORK.items():
            pairs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for _ in range(ROUNDS):
                bare = run_bare(base, command)
                for way, namespaces in WAYS.items():
                    pairs[way].append((run_branch(base, command, namespaces), bare))
            for way, budget in zip(WAYS, budgets, strict=True):
                rows.append(paired(f"{name}, {way}", "bare", pairs[way], budget))
        report("Real work in a branch", rows)


def grow(base: Path) -> None:
    """Make a repository of many files, sources to compile, and a wheel."""
    tree = base / "tree"
    for number in range(FILES):
        path = tree / f"d{number % 50}/e{number % 7}/file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    (tree / "src").mkdir()
    for number in range(SOURCES):
        text = "#include <stdio.h>\n#include <stdlib.h>\n"
        (tree / f"src/f{number}.c").write_text(
            f'{text}int f{number}(void) {{ return printf({number} ? "a" : "b"); }}\n'
        )
    with zipfile.ZipFile(base / "wheel.whl", "w") as wheel:
        for number in range(WHEEL):
            wheel.writestr(f"package/p{number % 60}/m{number}.py", f"X = {number}\n" * 20)
    line = "git init -q . && git add . && git -c user.name=n -c user.email=a@b commit -qm one; git gc -q; git status"
    subprocess.run(["/bin/sh", "-c", line], cwd=tree, env=ENV, check=True, stdout=subprocess.DEVNULL)


def run_bare(base: Path, command: str) -> float:
    """Return the seconds that the command takes where it may write; what it made is removed."""
    tree = base / "tree"
    before = set(os.listdir(tree))
    line = ["/bin/sh", "-c", TIMED.format(command)]
    done = subprocess.run(line, cwd=tree, env=ENV, capture_output=True, check=True)
    for name in set(os.listdir(tree)) - before:
        shutil.rmtree(tree / name)
    for made in (tree / "src").glob("*.o"):
        made.unlink()
    return int(done.stdout) / 1e9


def run_branch(base: Path, command: str, namespaces: str) -> float:
    """Return the seconds that it takes on a branch, which is dropped."""
    tree = str(base / "tree")
    sandbox = Sandbox(
        workdir=tree, cwd=tree, fs_storage=str(base / "storage"), on_exit="abort", on_error="abort",
        namespaces=namespaces,
        fs_readable=[*READ, str(base / "wheel.whl")], fs_writable=["/dev/null"], private_tmp=True, env=ENV,
    )  # fmt: skip
    result = sandbox.run(["/bin/sh", "-c", TIMED.format(command)], timeout=300)
    if not result.success:
        sys.exit(f"{command}: {result.stderr.decode()} {result.error}")
    return int(result.stdout) / 1e9


if __name__ == "__main__":
    main()
