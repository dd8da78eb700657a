"""What a launch costs from a warm Python process, as multiples of subprocess.run of the same command."""

from __future__ import annotations

import subprocess
import threading

from measure import Fact, compare, report, seconds

from sandlock import Sandbox, preset

COMMAND = ["/bin/true"]
READS = ["/usr", "-/bin", "-/lib", "-/lib64"]


def main() -> None:
    """Measure, small and from a large parent, alone and fifty at once."""
    files = Sandbox(fs_readable=READS)
    writing = Sandbox(fs_readable=READS, fs_writable=["/var/tmp"])  # noqa: S108
    processes = Sandbox(fs_readable=[*READS, "/proc"])
    default = Sandbox(preset("default"))
    base = ("subprocess.run", lambda: subprocess.run(COMMAND, capture_output=True, check=False))
    cases = {
        "Sandbox.run, files to read": (lambda: files.run(COMMAND), 1.2),
        "Sandbox.run, a place to write (mount namespace)": (lambda: writing.run(COMMAND), 2.0),
        "Sandbox.run, a /proc of its own (pid namespace)": (lambda: processes.run(COMMAND), 2.0),
        "Sandbox.run, preset default": (lambda: default.run(COMMAND), None),
    }
    report("Launch of /bin/true", compare(base, cases, rounds=150))
    ballast = bytearray(1 << 30)
    ballast[::4096] = b"x" * len(ballast[::4096])
    report("The same from a parent with 1 GiB resident", compare(base, cases, rounds=60))
    del ballast
    report("Fifty at once", (), [at_once()])


def at_once() -> Fact:
    """Fifty sandboxes that sleep 0.2 s, started from fifty threads."""
    boxes = [Sandbox(fs_readable=READS) for _ in range(50)]

    def everyone() -> None:
        threads = [threading.Thread(target=box.run, args=(["/bin/sleep", "0.2"],)) for box in boxes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    took = sorted(seconds(everyone) for _ in range(5))
    low, middle, high = (round(took[index], 3) for index in (0, 2, -1))
    return Fact("50 x `sleep 0.2` from fifty threads, median of 5", middle, "s", low, high, 0.35)


if __name__ == "__main__":
    main()
