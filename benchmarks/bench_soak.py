"""A soak: thousands of short sandboxes of every kind, then 200 live ones killed at random; nothing may be left.

python benchmarks/bench_soak.py [COUNT]        # 10,000 unless told; ends with 3 when something leaked or failed
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import Fact, report, seconds

from sandlock import Sandbox, SandboxBusyError

READS = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/dev/null"]
LIVE = 200
WARM_UP = 60  # runs of each kind: what is kept for the next one is there by then
OVER = 3  # exit status: all was measured, and something is above its limit
GROWTH_KIB = 8192  # allocators keep a little; a leak of one KiB each would be more
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def kinds(folder: str) -> dict[str, Sandbox]:
    """One policy of each kind; what is supervised, what is not, what has namespaces."""
    return {
        "files": Sandbox(fs_readable=READS),
        "processes": Sandbox(fs_readable=READS, max_processes=8),
        "memory": Sandbox(fs_readable=READS, max_memory="256M"),
        "proc": Sandbox(fs_readable=[*READS, "/proc"]),
        "served files": Sandbox(fs_readable=READS, fs_denied=["/usr/share"], namespaces="off"),
        "network": Sandbox(fs_readable=READS, net_allow=["127.0.0.1:9"]),
        "seeded": Sandbox(fs_readable=READS, random_seed=7, time_start="2000-01-01T00:00:00Z"),
        "branch": Sandbox(fs_readable=READS, workdir=folder, on_exit="abort"),
    }


def held() -> dict[str, int]:
    """What this process has: fds, threads, resident KiB, children."""
    gc.collect()
    return {
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "resident KiB": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KIB,
        "children": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
    }


def short_ones(boxes: dict[str, Sandbox], count: int) -> int:
    """Run `count` of /bin/true, kinds in turn, from two threads; return how many failed."""
    order = [name for _, name in zip(range(count), list(boxes) * (count // len(boxes) + 1), strict=False)]

    def one(name: str) -> bool:
        while True:
            try:
                result = boxes[name].run(["/bin/true"], timeout=60)
            except SandboxBusyError:
                time.sleep(0.001)
                continue
            if not result.success:
                print(f"{name}: {result}", file=sys.stderr)
            return result.success

    with ThreadPoolExecutor(2) as pool:
        return sum(not fine for fine in pool.map(one, order))


def live_ones(folder: str) -> tuple[int, float]:
    """Start LIVE sandboxes that do not end, kill them in random order by four ways; return survivors and KiB each."""
    chance = random.Random(LIVE)  # noqa: S311 -- the same order each time
    before = held()["resident KiB"]
    boxes = [box for _ in range(LIVE // 8) for name, box in kinds(folder).items() if name != "branch"]
    while len(boxes) < LIVE:
        boxes.append(Sandbox(fs_readable=READS, max_processes=8))
    running = [box.popen(["/bin/sh", "-c", "sleep 1000 & sleep 1000"]) for box in boxes]
    each = (held()["resident KiB"] - before) / len(running)
    pids = [process.pid for process in running]
    for box, process in chance.sample(list(zip(boxes, running, strict=True)), len(running)):
        way = chance.randrange(4)
        if way == 0:
            process.kill()
        elif way == 1:
            process.send_signal(signal.SIGTERM)
            process.kill()
        elif way == 2:
            box.pause()
            process.kill()
        else:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.close()
    return sum(os.path.exists(f"/proc/{pid}") for pid in pids), each


def main() -> None:
    """Warm up, soak, compare what is held before and after."""
    words = [word for word in sys.argv[1:] if word.isdigit()]
    count = int(words[0]) if words else 10_000
    with tempfile.TemporaryDirectory(prefix="sandlock-soak-") as folder:
        boxes = kinds(folder)
        short_ones(boxes, WARM_UP * len(boxes))
        live_ones(folder)
        before, failed = held(), []
        took = seconds(lambda: failed.append(short_ones(boxes, count)))
        survivors, each = live_ones(folder)
        time.sleep(1)
        after = held()
    facts = [
        Fact(f"short sandboxes of {len(boxes)} kinds, two at a time", count, ""),
        Fact("... the time of all of them", round(took, 1), "s"),
        Fact("... of them failed", failed[0], "", most=0),
        Fact("live ones at once, of seven kinds, then killed by four ways in random order", LIVE, ""),
        Fact("... what each takes in this process", round(each), "KiB"),
        Fact("... of them survived", survivors, "", most=0),
    ]
    for name, value in after.items():
        most = before[name] + (GROWTH_KIB if name == "resident KiB" else 0)
        facts.append(Fact(f"{name} held afterwards ({before[name]} before)", value, "", most=most))
    report("A soak", (), facts)
    sys.exit(OVER if any(fact.most is not None and fact.value > fact.most for fact in facts) else 0)


if __name__ == "__main__":
    main()
