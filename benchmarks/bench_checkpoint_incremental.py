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
from contextlib import closing
from statistics import median

from measure import Fact, paired, report

from sandlock_checkpoint import Leave, Tracker, capture, image
from sandlock_sys import procmem

ROUNDS = 5
SHARES = (0, 1, 10, 100)  # per cent
TARGET = """
import mmap, os, sys
size = int(sys.argv[1]) << 20
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for at in range(0, size, 1 << 20):
    area[at : at + (1 << 20)] = block
print("ready", flush=True)
for line in sys.stdin:
    share = int(line)
    for page in range(0, size // 4096, 100 // share) if share else ():
        area[page * 4096] = (area[page * 4096] + 1) % 256
    print("done", flush=True)
"""
STREAMS = frozenset({"fd:0", "fd:1"})


class Target:
    """The process with the memory."""

    def __init__(self, mib: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TARGET, str(mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.answer()

    def answer(self) -> None:
        """Wait for a line."""
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def write(self, share: int) -> float:
        """Have it write this many per cent of its pages; return the seconds it took."""
        assert self.process.stdin is not None
        began = time.perf_counter()
        self.process.stdin.write(b"%d\n" % share)
        self.process.stdin.flush()
        self.answer()
        return time.perf_counter() - began

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def ranges_of(pid: int) -> list[tuple[int, int]]:
    """Return address and length of what the process has."""
    with capture(pid, allow=STREAMS) as checkpoint:
        return [(one.start + run.offset, run.length) for one in checkpoint.processes[0].mappings for run in one.runs]


def floor_of(pid: int, ranges: list[tuple[int, int]], into: memoryview) -> float:
    """Read all of them at once; return the seconds. The process waits for its next order meanwhile."""
    began = time.perf_counter()
    procmem.read_ranges(pid, ranges, into)
    return time.perf_counter() - began


def stop_for(pid: int, path: str, parent: str | None, tracker: Tracker | None) -> float:
    """Save it; return the seconds that it stood still."""
    ended = []
    began = time.perf_counter()
    checkpoint = capture(pid, leave=Leave.RUNNING, allow=STREAMS, tracker=tracker)
    close = checkpoint.source.close

    def closing_source() -> None:
        close()
        ended.append(time.perf_counter())

    checkpoint.source.close = closing_source  # type: ignore[method-assign]
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
            with closing(Target(mib)) as target, Tracker() as tracker:
                used = tracker if watched else None
                ranges = ranges_of(target.process.pid)
                stop_for(target.process.pid, base, None, used)
                for number in range(ROUNDS):
                    took = target.write(share)
                    if share == 100:
                        written[watched].append(took)
                    floor = floor_of(target.process.pid, ranges, into)
                    pairs.append((stop_for(target.process.pid, f"{folder}/{number}", base, used), floor))
            shutil.rmtree(folder)
            name = f"{share} % changed, {'watched' if watched else 'compared'}"
            rows.append(paired(name, "floor", pairs))
    extra = (median(written[True][1:]) - median(written[False][1:])) / (mib << 8) * 1e6
    first_write = Fact("what the first write to a watched page takes longer", round(extra, 2), "us")
    report(f"A process of {mib} MiB stands still for an incremental image", rows, [first_write])


if __name__ == "__main__":
    main()
