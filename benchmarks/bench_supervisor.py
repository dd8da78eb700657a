"""What a served call costs, as a multiple of the call served by a loop in C; the same in a busy host; and launches."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Row, compare, paired, report

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/sandlock-notif/tests"))
from supervision import supervise, table

from sandlock import NotifAction, Sandbox
from sandlock_notif import CONTINUE, Value

if TYPE_CHECKING:
    from sandlock_notif.action import Action
    from sandlock_notif.dispatch import Handle

CALLS, ROUNDS = 20_000, 15
FILES = ["/usr", "-/lib", "-/lib64"]


def main() -> None:
    """Measure floor and answers in turn; then launches."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = str(Path(folder, "served_calls"))
        source = str(Path(__file__).parent / "served_calls.c")
        subprocess.run([shutil.which("cc") or "gcc", "-O2", "-o", program, source], check=True)
        rows = _answers(program)
        busy = _in_a_busy_host(program)
    report("Served calls", rows)
    report("Served calls while another thread of the host computes", busy)
    report("Launch with a listener", _launches())


def _answers(program: str) -> list[Row]:
    cases: dict[str, tuple[Action, int]] = {
        "Continue": (CONTINUE, 1),
        "Value": (Value(1), 1),
        "Continue, 8 processes at once": (CONTINUE, 8),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (action, processes) in cases.items():
            arguments = [str(CALLS // processes), str(processes)]
            floor = float(subprocess.run([program, "floor", *arguments], capture_output=True, check=True).stdout)
            outcome = supervise([program, "call", *arguments], table("getppid", _always(action)))
            found[name].append((float(outcome.output), floor))
    rows = []
    for name, pairs in found.items():
        rows.append(paired(name, "C loop", [(ours / 1e9, floor / 1e9) for ours, floor in pairs], 1.5))
    return rows


def _always(action: Action) -> Handle:
    return lambda _: action


def _in_a_busy_host(program: str) -> list[Row]:
    """A call that Python answers, in a sandbox of the public API: the host's main thread waits, or computes."""
    handled = Sandbox(fs_readable=[*FILES, program], handlers=[("getppid", lambda _: NotifAction.continue_())])

    def served_ns() -> float:
        return float(handled.run([program, "call", str(CALLS // 10), "1"]).stdout)

    pairs = []
    for _ in range(ROUNDS):
        idle, over = served_ns(), threading.Event()
        computing = threading.Thread(target=_compute, args=(over,))
        computing.start()
        pairs.append((served_ns() / 1e9, idle / 1e9))
        over.set()
        computing.join()
    return [paired("Continue, from Python", "an idle host", pairs, 2.0)]


def _compute(over: threading.Event) -> None:
    number = 0
    while not over.is_set():
        for _ in range(1000):
            number += 1


def _launches() -> list[Row]:
    plain = Sandbox(fs_readable=FILES)
    handled = Sandbox(fs_readable=FILES, handlers=[("getppid", lambda _: NotifAction.continue_())])
    limited = Sandbox(fs_readable=FILES, max_processes=100)
    shown = Sandbox(fs_readable=[*FILES, "/proc"])
    return compare(
        ("subprocess.run", lambda: subprocess.run(["/bin/true"], capture_output=True, check=True)),
        {
            "kernel only": (lambda: plain.run(["/bin/true"]), 1.2),
            "a handler": (lambda: handled.run(["/bin/true"]), 1.5),
            "max_processes": (lambda: limited.run(["/bin/true"]), 1.5),
            "own /proc by namespaces": (lambda: shown.run(["/bin/true"]), 2.0),
        },
        rounds=100,
    )


if __name__ == "__main__":
    main()
