"""mypy --strict over everything: packages and tools at once, then every folder of tests by itself.

By itself, because test modules have no package: two folders may each have a `test_model.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys

from workspace import ROOT, load

__all__ = ["main"]


def main() -> None:
    """Exit with 1 if mypy found a fault anywhere."""
    packages = load().values()
    sources = [str(package.source) for package in packages]
    scripts = [
        str(path) for pattern in ("*.py", "tools/*.py", "packages/*/*.py") for path in sorted(ROOT.glob(pattern))
    ]
    folders = [*(package.folder / "tests" for package in packages), ROOT / "tools/tests", ROOT / "tests-integration"]
    folders.append(ROOT / "benchmarks")  # which use the lab of the supervisor's tests
    failed = _mypy(*sources, *scripts)
    for folder in folders:
        if any(folder.rglob("*.py")):
            # What the first run said about a module is not said again.
            search = (
                f"{folder}:{ROOT / 'packages/sandlock-notif/tests'}" if folder.name == "benchmarks" else str(folder)
            )
            failed |= _mypy("--follow-imports=silent", str(folder), search=search)
    sys.exit(failed)


def _mypy(*arguments: str, search: str = "") -> bool:
    environment = os.environ | {"MYPYPATH": search}
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0


if __name__ == "__main__":
    main()
