"""How long a process stands still for an incremental image, by how much of its memory has changed since the parent.

    python benchmarks/bench_checkpoint_incremental.py [MIB]

Each round, a share of the pages is written, evenly scattered (the worst case: each is a run of its own), and the
process is saved to a tmpfs with its first image as parent. *watched*: by a `Tracker`. *compared*: by nobody; all pages
are read and compared. `floor`: one process_vm_readv of all pages, in the same round; ratios are to that.
"""

from __future__ import annotations

import mmap
import shutil
import subprocess
import sys
import tempfile
import time
from statistics import median

from large_process import ends_of, ranges_of, start_large, write_share
from measure import Fact, paired, report

from sandlock_checkpoint import Leave, Tracker, capture, image
from sandlock_sys import procmem

ROUNDS = 5
SHARES = (0, 1, 10, 100)  # per cent
STREAMS = frozenset({"fd:0", "fd:1"})


def floor_of(pid: int, ranges: list[tuple[int, int]], into: memoryview) -> float:
    """Read all of them at once; return the seconds. The process waits for its next order meanwhile."""
    began = time.perf_counter()
    procmem.read_ranges(pid, ranges, into)
    return time.perf_counter() - began


def stop_for(pid: int, path: str, parent: str | None, tracker: Tracker | None) -> float:
    """Save it; return the seconds that it stood still."""
    began = time.perf_counter()
    checkpoint = capture(pid, leave=Leave.RUNNING, allow=STREAMS, tracker=tracker)
    ended = ends_of(checkpoint)
    image.save(checkpoint, path, parent=parent)
    return ended[0] - began


def main() -> None:
    """Measure and print."""
    mib = int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdigit() else 512
    into = memoryview(mmap.mmap(-1, (mib + 64) << 20))
    rows = []
    written = {False: [0.0], True: [0.0]}
    for share in SHARES:
        for watched in (True, False):
            folder = tempfile.mkdtemp(prefix="sandlock-bench-", dir="/dev/shm")
            base = f"{folder}/base"
            pairs = []
            with start_large(mib, subprocess.PIPE) as target, Tracker() as tracker:
                used = tracker if watched else None
                with capture(target.pid, allow=STREAMS) as checkpoint:
                    ranges = ranges_of(checkpoint)
                stop_for(target.pid, base, None, used)
                for number in range(ROUNDS):
                    took = write_share(target, share)
                    if share == 100:
                        written[watched].append(took)
                    floor = floor_of(target.pid, ranges, into)
                    pairs.append((stop_for(target.pid, f"{folder}/{number}", base, used), floor))
                target.kill()
            shutil.rmtree(folder)
            name = f"{share} % changed, {'watched' if watched else 'compared'}"
            rows.append(paired(name, "floor", pairs))
    extra = (median(written[True][1:]) - median(written[False][1:])) / (mib << 8) * 1e6
    first_write = Fact("what the first write to a watched page takes longer", round(extra, 2), "us")
    report(f"A process of {mib} MiB stands still for an incremental image", rows, [first_write])


if __name__ == "__main__":
    main()
