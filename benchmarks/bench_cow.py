"""What a branch costs beside the bare file system, called directly: without a sandbox, without a served call.

Each ratio is the same work done through a `Branch` and done by os on a plain directory. The real workloads (a served
`git status`, unpacking a wheel) belong to the file system layer above it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from measure import compare, report

from sandlock_cow import Branch

FILES = 200
LARGE = 64 << 20


def main() -> None:
    """Grow a tree, then measure lookups, opens, listings, new files, copy-up and commit."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder)
        lower, storage = str(root / "lower"), str(root / "storage")
        for index in range(FILES):
            directory = root / "lower" / f"d{index % 10}" / "sub"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"file{index}").write_bytes(b"x" * 4096)
        (root / "lower" / "large").write_bytes(os.urandom(LARGE))
        paths = [f"d{index % 10}/sub/file{index}".encode() for index in range(FILES)]
        with Branch(lower, storage=storage) as branch:
            looking(branch, os.fsencode(lower), paths)
        with Branch(lower, storage=storage) as branch:
            making(branch, root)
        copying(lower, storage, root, paths)
        committing(lower, storage, root)


def looking(branch: Branch, lower: bytes, paths: list[bytes]) -> None:
    """Reads of what nobody changed, then of what was copied up."""

    def bare_stat() -> None:
        for path in paths:
            os.lstat(lower + b"/" + path)

    def stat() -> None:
        for path in paths:
            branch.stat(path)

    def bare_open() -> None:
        for path in paths:
            os.close(os.open(lower + b"/" + path, os.O_RDONLY))

    def opened() -> None:
        for path in paths:
            os.close(branch.open(path, os.O_RDONLY))

    def bare_list() -> None:
        for index in range(10):
            sorted(os.listdir(lower + b"/d%d/sub" % index))

    def listed() -> None:
        for index in range(10):
            branch.listdir(b"d%d/sub" % index)

    rows = compare((f"lstat of {FILES} files", bare_stat), {"stat, lower": (stat, None)}, rounds=60)
    rows += compare((f"open and close of {FILES} files", bare_open), {"open, lower": (opened, None)}, rounds=60)
    rows += compare(("sorted listdir of 10 directories", bare_list), {"listdir, lower": (listed, None)}, rounds=60)
    for path in paths:
        branch.copy_up(path)
    rows += compare((f"lstat of {FILES} files", bare_stat), {"stat, copied up": (stat, None)}, rounds=60)
    rows += compare((f"open and close of {FILES} files", bare_open), {"open, copied up": (opened, None)}, rounds=60)
    rows += compare(("sorted listdir of 10 directories", bare_list), {"listdir, merged": (listed, None)}, rounds=60)
    report("Looking", rows)


def making(branch: Branch, root: Path) -> None:
    """New files, written and removed again."""
    bare_folder = root / "bare"
    bare_folder.mkdir()

    def bare() -> None:
        for index in range(FILES):
            path = bare_folder / str(index)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        for index in range(FILES):
            (bare_folder / str(index)).unlink()

    def made() -> None:
        for index in range(FILES):
            os.close(branch.open(b"new%d" % index, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        for index in range(FILES):
            branch.unlink(b"new%d" % index)

    report("Making", compare((f"create and unlink {FILES} files", bare), {"branch": (made, None)}, rounds=20))


def copying(lower: str, storage: str, root: Path, paths: list[bytes]) -> None:
    """Copy-up beside a copy of the same files."""

    def copy_small() -> None:
        target = root / "copy"
        target.mkdir()
        for index, path in enumerate(paths):
            shutil.copy2(os.path.join(os.fsencode(lower), path), os.fsencode(target) + b"/%d" % index)
        shutil.rmtree(target)

    def copy_up_small() -> None:
        with Branch(lower, storage=storage) as branch:
            for path in paths:
                branch.copy_up(path)

    def copy_large() -> None:
        shutil.copy2(lower + "/large", root / "large copy")
        (root / "large copy").unlink()

    def copy_up_large() -> None:
        with Branch(lower, storage=storage) as branch:
            branch.copy_up(b"large")

    rows = compare((f"copy2 of {FILES} files of 4 KiB", copy_small), {"copy_up": (copy_up_small, None)}, rounds=10)
    rows += compare(("copy2 of a file of 64 MiB", copy_large), {"copy_up": (copy_up_large, None)}, rounds=5)
    report("Copying up (branch made and discarded each time)", rows)


def committing(lower: str, storage: str, root: Path) -> None:
    """A commit of new files beside writing them and syncing once."""
    counter = iter(range(1_000_000))

    def bare() -> None:
        target = root / f"written {next(counter)}"
        target.mkdir()
        for index in range(FILES):
            (target / str(index)).write_bytes(b"x" * 4096)
        os.sync()

    def commit() -> None:
        with Branch(lower, storage=storage) as branch:
            above = b"written %d" % next(counter)
            branch.mkdir(above, 0o755)
            for index in range(FILES):
                fd = branch.open(above + b"/%d" % index, os.O_WRONLY | os.O_CREAT, 0o644)
                os.write(fd, b"x" * 4096)
                os.close(fd)
            branch.commit()

    rows = compare((f"write {FILES} files of 4 KiB and sync", bare), {"write and commit": (commit, None)}, rounds=10)
    report("Committing", rows)


if __name__ == "__main__":
    main()
