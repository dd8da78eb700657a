"""What the command costs: `sandlock run -- /bin/true` as a multiple of `python -c pass` of the same interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from measure import compare, report

COMMAND = Path(sys.executable).with_name("sandlock")


def main() -> None:
    """Measure the installed command."""
    python = [sys.executable, "-c", "pass"]
    grants = [word for path in ("/usr", "-/lib", "-/lib64", "-/bin") for word in ("-r", path)]
    run = [str(COMMAND), "run", *grants, "--", "/bin/true"]
    default = [str(COMMAND), "run", "--", "/bin/true"]

    def start(command: list[str]) -> None:
        subprocess.run(command, check=True)

    cases = {
        "sandlock run -r /usr ... -- /bin/true": (lambda: start(run), 1.6),
        "sandlock run -- /bin/true (preset default)": (lambda: start(default), 1.6),
        "python -c 'import sandlock'": (lambda: start([sys.executable, "-c", "import sandlock"]), None),
    }
    report("The command", compare(("python -c pass", lambda: start(python)), cases, rounds=60))


if __name__ == "__main__":
    main()
