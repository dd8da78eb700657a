"""Capture and restore beside CRIU's dump and restore of the same process, in turns; as root, where CRIU runs.

    CRIU=/path/to/criu python benchmarks/bench_checkpoint_criu.py [MIB...]

The same process, its images in the same tmpfs; who begins changes from round to round. `stop`: how long the process
stands still; of CRIU what it says itself (frozen_time). `save`: from the call until the image is there. `restore`:
from the call until the process runs; `lazy restore` is beside CRIU's full one, since its lazy one needs a server of
pages. Ours are calls in a Python that runs, CRIU's are commands, as it is used: `criu --version` says what a start of
it takes.
Ours makes and checks SHA-256 digests of all pages, and CRIU none: `with digests` is its command and the digests of its
pages, made as ours are made, since an image that nobody checks is another thing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from large_process import ends_of, start_large
from measure import Fact, paired, report

from sandlock_checkpoint import capture, load, restore

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5
CRIU = os.environ.get("CRIU") or shutil.which("criu") or ""
CASES = (
    ("stop", "criu stop"),
    ("save", "criu dump"),
    ("save", "criu dump with digests"),
    ("restore", "criu restore"),
    ("restore", "criu restore with digests"),
    ("lazy restore", "criu restore"),
)
BLOCK = 1 << 20
_FROZEN, _DUMP = 2, 1  # of stats.proto: dump_stats_entry.frozen_time, stats_entry.dump
_STATS_HEADER = 12  # two magics, the size of the entry


def frozen_s(folder: Path) -> float:
    """Return what CRIU says of how long it had frozen the process."""
    stats = (folder / "stats-dump").read_bytes()[_STATS_HEADER:]
    (dump,) = (value for number, value in fields(stats) if number == _DUMP and isinstance(value, bytes))
    (frozen_us,) = (value for number, value in fields(dump) if number == _FROZEN and isinstance(value, int))
    return frozen_us / 1e6


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message that has numbers and messages only."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        value, at = varint(message, at)
        if key & 7 == 2:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            yield key >> 3, value


def varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at this place, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def criu(verb: str, folder: Path, *words: str) -> float:
    """Run a verb of CRIU; return the seconds."""
    began = time.perf_counter()
    done = subprocess.run([CRIU, verb, "-D", str(folder), "-o", "log", *words], check=False)
    took = time.perf_counter() - began
    assert done.returncode == 0, (folder / "log").read_text(errors="replace")[-2000:]
    return took


def digests_s(folder: Path) -> float:
    """Make digests of the pages of CRIU's image, as ours are made: of blocks, by one thread for each CPU."""
    began = time.perf_counter()
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        for path in folder.glob("pages-*.img"):
            with path.open("rb") as file:
                list(pool.map(partial(digest, file.fileno()), range(0, path.stat().st_size, BLOCK)))
    return time.perf_counter() - began


def digest(fd: int, at: int) -> bytes:
    """Return the digest of one block."""
    return hashlib.sha256(os.pread(fd, BLOCK, at)).digest()


def save_ours(pid: int, folder: Path, row: dict[str, float]) -> None:
    """Capture and save by ours."""
    began = time.perf_counter()
    checkpoint = capture(pid)
    ended = ends_of(checkpoint)
    checkpoint.save(folder)
    row["save"] = time.perf_counter() - began
    row["stop"] = ended[0] - began


def save_theirs(pid: int, folder: Path, row: dict[str, float]) -> None:
    """Dump by CRIU."""
    folder.mkdir()
    row["criu dump"] = criu("dump", folder, "-t", str(pid), "--leave-running")
    row["criu stop"] = frozen_s(folder)
    row["criu dump with digests"] = row["criu dump"] + digests_s(folder)


def restore_ours(_pid: int, folder: Path, row: dict[str, float]) -> None:
    """Restore by ours, whole and lazily."""
    for name in ("restore", "lazy restore"):
        began = time.perf_counter()
        with load(folder) as loaded:
            restored = restore(loaded, lazy=name != "restore", allow={"discard"})
            row[name] = time.perf_counter() - began
        restored.kill()
        restored.wait()


def restore_theirs(pid: int, folder: Path, row: dict[str, float]) -> None:
    """Restore by CRIU."""
    row["criu restore"] = criu("restore", folder, "-d")
    # Safety: CRIU restores under the same number, or not at all.
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    row["criu restore with digests"] = row["criu restore"] + digests_s(folder)


def measure(mib: int, folder: Path, *, theirs_first: bool) -> dict[str, float]:
    """One round of both."""
    target = start_large(mib)
    row: dict[str, float] = {}
    order = slice(None, None, -1 if theirs_first else 1)
    try:
        for save, name in [(save_ours, "ours"), (save_theirs, "theirs")][order]:
            save(target.pid, folder / name, row)
    finally:
        target.kill()
        target.wait()
    for restoring, name in [(restore_ours, "ours"), (restore_theirs, "theirs")][order]:
        restoring(target.pid, folder / name, row)
    return row


def main() -> None:
    """Measure and print."""
    if not CRIU or os.geteuid():
        print("needs root, and criu on PATH or in CRIU")
        return
    sizes = [int(word) for word in sys.argv[1:] if word.isdigit()] or [512, 2048]
    for mib in sizes:
        compare(mib)


def compare(mib: int) -> None:
    """Measure and print for one size."""
    rounds = []
    for number in range(ROUNDS):
        folder = Path(tempfile.mkdtemp(prefix="sandlock-bench-", dir="/dev/shm"))
        try:
            rounds.append(measure(mib, folder, theirs_first=bool(number % 2)))
        finally:
            shutil.rmtree(folder)
    rows = [paired(name, base, [(row[name], row[base]) for row in rounds], 1.0) for name, base in CASES]
    bases = sorted({base for _, base in CASES})
    facts = [Fact(base, round(statistics.median(row[base] for row in rounds) * 1e3, 1), "ms") for base in bases]
    began = time.perf_counter()
    words = version()
    facts.append(Fact("criu --version", round((time.perf_counter() - began) * 1e3, 1), "ms"))
    report(f"A process of {mib} MiB, beside {words}", rows, facts)


def version() -> str:
    """Return the name and version of the CRIU."""
    told = subprocess.run([CRIU, "--version"], capture_output=True, text=True, check=True).stdout
    return f"CRIU {told.split()[1]}"


if __name__ == "__main__":
    main()
