"""Capture and restore of a process with much memory, against plain copies of the same pages in the same run.

    python benchmarks/bench_checkpoint.py [MIB]

`floor`: one process_vm_readv with many ranges, of the same pages, into memory that is there already.
`stop`: from the first thread's stop to the last one's release, with the pages copied into the same memory.
`stop+save`: how long it stands still while an image is written to a tmpfs (the pages are read as they are written).
`save`: until that image has its checksums and is in its place.
`restore`: from the image in that tmpfs to the running process, checksums looked at.
`lazy restore`: the same, mapped; the pages are read later.
`memcpy`: of the same bytes into memory that was not touched before, as a page cache and a new process are not either.
"""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import tempfile
import time

from large_process import ends_of, ranges_of, start_large
from measure import paired, report

from sandlock_checkpoint import Area, Checkpoint, Leave, Run, capture, load, restore
from sandlock_sys import procmem

ROUNDS = 5
# What, of which other, and the ratio that the design allows.
CASES = (
    ("stop", "floor", 1.3),
    ("stop+save", "memcpy", 1 / 0.6),
    ("save", "memcpy", None),
    ("restore", "memcpy", 1 / 0.6),
    ("lazy restore", "restore", None),
)


def areas(checkpoint: Checkpoint) -> list[tuple[int, tuple[Run, ...]]]:
    """Number and runs of every mapping with contents."""
    mappings = checkpoint.processes[0].mappings
    return [(number, mapping.runs) for number, mapping in enumerate(mappings) if mapping.runs]


def main() -> None:
    """Measure and print."""
    mib = int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdigit() else 512
    target = start_large(mib)
    time.sleep(0.2)
    into = memoryview(mmap.mmap(-1, (mib + 64) << 20))
    folder = tempfile.mkdtemp(prefix="sandlock-bench-", dir="/dev/shm")
    rounds: list[dict[str, float]] = []
    try:
        for number in range(ROUNDS + 1):
            row = measure(target.pid, into, os.path.join(folder, "image"))
            if number:  # the first touches everything for the first time
                rounds.append(row)
    finally:
        target.kill()
        target.wait()
        shutil.rmtree(folder)
    rows = []
    for name, base, budget in CASES:
        rows.append(paired(name, base, [(row[name], row[base]) for row in rounds], budget))
    report(f"A process of {mib} MiB", rows)


def measure(pid: int, into: memoryview, image: str) -> dict[str, float]:
    """One round of everything, in turn."""
    row = {}
    with capture(pid) as checkpoint:
        ranges = ranges_of(checkpoint)
    total = sum(length for _, length in ranges)
    began = time.perf_counter()
    assert procmem.read_ranges(pid, ranges, into).done == total
    row["floor"] = time.perf_counter() - began

    began = time.perf_counter()
    with capture(pid) as checkpoint:
        done = 0
        for number, runs in areas(checkpoint):
            length = sum(run.length for run in runs)
            checkpoint.source.read(Area(0, number), runs, into[done : done + length])
            done += length
    row["stop"] = time.perf_counter() - began

    shutil.rmtree(image, ignore_errors=True)
    began = time.perf_counter()
    checkpoint = capture(pid, leave=Leave.RUNNING)
    ended = ends_of(checkpoint)
    checkpoint.save(image)
    row["save"] = time.perf_counter() - began
    row["stop+save"] = ended[0] - began

    began = time.perf_counter()
    bytes(into[:total])
    row["memcpy"] = time.perf_counter() - began
    row["restore"] = restored_in(image, lazy=False)
    row["lazy restore"] = restored_in(image, lazy=True)
    return row


def restored_in(image: str, *, lazy: bool) -> float:
    """Restore an image, loading included; return the seconds until it ran, and kill it."""
    began = time.perf_counter()
    with load(image) as checkpoint:
        restored = restore(checkpoint, lazy=lazy, allow={"discard"} if lazy else frozenset())
        took = time.perf_counter() - began
    restored.kill()
    restored.wait()
    return took


if __name__ == "__main__":
    main()
