"""Capture and restore of a process with much memory, against plain copies of the same pages in the same run.

    python benchmarks/bench_checkpoint.py [MIB]

`floor`: one process_vm_readv with many ranges, of the same pages, into memory that is there already.
`stop`: from the first thread's stop to the last one's release, with the pages copied into the same memory.
`stop+save`: the same with the image written to a tmpfs (the pages are read as they are written).
`restore`: from the image in that tmpfs to the running process; compared with a memcpy of the same bytes.
"""

from __future__ import annotations

import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from sandlock_checkpoint import Area, Checkpoint, Leave, Run, capture, load, restore
from sandlock_sys import procmem

ROUNDS = 5
TARGET = """
import mmap, os, sys, time
size = int(sys.argv[1]) << 20
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for at in range(0, size, 1 << 20):
    area[at : at + (1 << 20)] = block
print("ready", flush=True)
os.close(1)
time.sleep(600)
"""


def areas(checkpoint: Checkpoint) -> list[tuple[int, tuple[Run, ...], int]]:
    """Number, runs and first address of every mapping with contents."""
    mappings = checkpoint.processes[0].mappings
    return [(number, mapping.runs, mapping.start) for number, mapping in enumerate(mappings) if mapping.runs]


def main() -> None:
    """Measure and print."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    target = subprocess.Popen(
        [sys.executable, "-c", TARGET, str(mib)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert target.stdout is not None
    assert target.stdout.readline() == b"ready\n"
    time.sleep(0.2)
    into = memoryview(mmap.mmap(-1, (mib + 64) << 20))
    folder = tempfile.mkdtemp(prefix="sandlock-bench-", dir="/dev/shm")
    times: dict[str, list[float]] = {name: [] for name in ("floor", "stop", "stop+save", "memcpy", "restore")}
    try:
        for number in range(ROUNDS + 1):
            row = measure(target.pid, into, os.path.join(folder, "image"))
            if number:  # the first touches everything for the first time
                for name, value in row.items():
                    times[name].append(value)
    finally:
        target.kill()
        target.wait()
        shutil.rmtree(folder)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, base in (("floor", "floor"), ("stop", "floor"), ("stop+save", "floor"), ("memcpy", "memcpy"),
                       ("restore", "memcpy")):  # fmt: skip
        print(f"{name:10} {median[name] * 1000:8.1f} ms  {median[name] / median[base]:5.2f} x {base}")


def measure(pid: int, into: memoryview, image: str) -> dict[str, float]:
    """One round of everything, in turn."""
    row = {}
    with capture(pid) as checkpoint:
        rows = areas(checkpoint)
    ranges = [(start + run.offset, run.length) for _, runs, start in rows for run in runs]
    total = sum(length for _, length in ranges)
    began = time.perf_counter()
    assert procmem.read_ranges(pid, ranges, into).done == total
    row["floor"] = time.perf_counter() - began

    began = time.perf_counter()
    with capture(pid) as checkpoint:
        done = 0
        for number, runs, _ in areas(checkpoint):
            length = sum(run.length for run in runs)
            checkpoint.source.read(Area(0, number), runs, into[done : done + length])
            done += length
    row["stop"] = time.perf_counter() - began

    shutil.rmtree(image, ignore_errors=True)
    began = time.perf_counter()
    checkpoint = capture(pid, leave=Leave.RUNNING)
    ended = []
    close = checkpoint.source.close

    def closing() -> None:
        close()
        ended.append(time.perf_counter())

    checkpoint.source.close = closing  # type: ignore[method-assign]
    checkpoint.save(image)
    row["stop+save"] = ended[0] - began

    began = time.perf_counter()
    bytes(into[:total])
    row["memcpy"] = time.perf_counter() - began
    with load(image) as checkpoint:
        began = time.perf_counter()
        restored = restore(checkpoint)
        row["restore"] = time.perf_counter() - began
    restored.kill()
    restored.wait()
    return row


if __name__ == "__main__":
    main()
