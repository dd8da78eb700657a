"""Capture and restore beside CRIU's dump and restore of the same process, in turns; as root, where CRIU runs.

    CRIU=/path/to/criu python benchmarks/bench_checkpoint_criu.py [MIB...]

Images are in a tmpfs. `stop`: how long the process stands still; of CRIU what it says itself (frozen_time). `save`:
from the call until the image is there; ours has digests and is synced. `restore`: from the call until the process runs;
`lazy restore` is beside CRIU's full one, since its lazy one needs a server of pages.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from large_process import ends_of, start_large
from measure import Fact, paired, report

from sandlock_checkpoint import capture, load, restore

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5
CRIU = os.environ.get("CRIU") or shutil.which("criu") or ""
CASES = (("stop", "criu stop"), ("save", "criu dump"), ("restore", "criu restore"), ("lazy restore", "criu restore"))
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


def measure(mib: int, folder: Path) -> dict[str, float]:
    """One round: ours, then CRIU's."""
    target = start_large(mib)
    row = {}
    ours, theirs = folder / "ours", folder / "theirs"
    try:
        began = time.perf_counter()
        checkpoint = capture(target.pid)
        ended = ends_of(checkpoint)
        checkpoint.save(ours)
        row["save"] = time.perf_counter() - began
        row["stop"] = ended[0] - began
        for name in ("restore", "lazy restore"):
            began = time.perf_counter()
            with load(ours) as loaded:
                restored = restore(loaded, lazy=name != "restore", allow={"discard"})
                row[name] = time.perf_counter() - began
            restored.kill()
            restored.wait()
        theirs.mkdir()
        row["criu dump"] = criu("dump", theirs, "-t", str(target.pid), "--leave-running")
        row["criu stop"] = frozen_s(theirs)
    finally:
        target.kill()
        target.wait()
    row["criu restore"] = criu("restore", theirs, "-d")
    # Safety: CRIU restores under the same number, or not at all.
    os.kill(target.pid, signal.SIGKILL)
    while Path(f"/proc/{target.pid}").exists():
        time.sleep(0.01)
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
    for _ in range(ROUNDS):
        folder = Path(tempfile.mkdtemp(prefix="sandlock-bench-", dir="/dev/shm"))
        try:
            rounds.append(measure(mib, folder))
        finally:
            shutil.rmtree(folder)
    rows = [paired(name, base, [(row[name], row[base]) for row in rounds], 1.0) for name, base in CASES]
    bases = sorted({base for _, base in CASES})
    facts = [Fact(base, round(statistics.median(row[base] for row in rounds) * 1e3, 1), "ms") for base in bases]
    report(f"A process of {mib} MiB, beside {version()}", rows, facts)


def version() -> str:
    """Return the name and version of the CRIU."""
    told = subprocess.run([CRIU, "--version"], capture_output=True, text=True, check=True).stdout
    return f"CRIU {told.split()[1]}"


if __name__ == "__main__":
    main()
