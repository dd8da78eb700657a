"""Tell what sandlock does on this machine, as JSON: the host's features, the protections, and trials of each.

    python tools/machine_report.py LABEL >docs/machines/LABEL.json

Run as the user in question; `tools/gen_support_matrix.py` makes docs/support-matrix.md of the recorded answers.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time

from machine_bench import bench, try_one
from machine_trials import TRIALS

from sandlock_cli.check import examine
from sandlock_cli.host import findings
from sandlock_sys.probe import probe

__all__ = ["main", "report"]


def report(label: str) -> dict[str, object]:
    """All that is known about this machine; progress goes to standard error."""
    host = probe()
    trials = []
    for way in ("auto", "off"):
        for trial in TRIALS:
            started = time.monotonic()
            with bench(namespaces=way) as place:
                seen = try_one(trial, place)
            spent = time.monotonic() - started
            print(f"{way:4} {trial.__name__:18} {seen.state:8} {spent:6.1f} s  {seen.how}", file=sys.stderr, flush=True)
            row = {"name": trial.__name__, "what": (trial.__doc__ or "").strip().rstrip("."), "namespaces": way}
            trials.append({**row, "state": seen.state, "how": seen.how})
    outcome = examine()
    return {
        "label": label,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": host.kernel,
        "version": platform.version(),
        "machine": host.machine,
        "landlock_abi": host.landlock_abi,
        "user": "root" if os.geteuid() == 0 else "user",
        "refused": outcome.error,
        "features": [{"name": row.name, "state": row.state, "why": row.why} for row in findings(host)],
        "protections": [
            {"name": row.name, "state": row.state, "layer": row.layer, "detail": row.detail}
            for row in outcome.protections
        ],
        "trials": trials,
    }


def main() -> None:
    """Print the report."""
    (label,) = sys.argv[1:]
    print(json.dumps(report(label), indent=1))


if __name__ == "__main__":
    main()
