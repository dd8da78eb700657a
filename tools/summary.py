"""Add up the JUnit files of build/results: a line for each run, why tests were skipped, and the closing line.

python tools/summary.py clear    before the runs
python tools/summary.py          after them; exits with 1 if a test failed or none ran
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from stage import RESULTS

__all__ = ["Counts", "closing_line", "main", "read"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How the tests of one or more runs ended; an error in a fixture is a failure."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.seconds + other.seconds,
        )


def read(report: Path) -> tuple[Counts, Counter[str]]:
    """The counts of one JUnit file, and its reasons for skipping with how often each was given."""
    total = Counts()
    reasons: Counter[str] = Counter()
    document = ET.parse(report)  # noqa: S314 -- pytest wrote it, a moment ago
    for suite in document.getroot().iter("testsuite"):
        total += Counts(seconds=float(suite.get("time", 0)))
        for case in suite.iter("testcase"):
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                total += Counts(failed=1)
            elif skip is not None:
                total += Counts(skipped=1)
                reasons[skip.get("message", "")] += 1
            else:
                total += Counts(passed=1)
    return total, reasons


def closing_line(counts: Counts) -> str:
    """The line that those who read the end of the output look for."""
    return f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped"


def main(folder: Path = RESULTS) -> None:
    """Print the summary of the reports in `folder`."""
    if sys.argv[1:] == ["clear"]:
        shutil.rmtree(folder, ignore_errors=True)
        return
    total = Counts()
    reasons: Counter[str] = Counter()
    for report in sorted(folder.glob("*.xml")):
        counts, skips = read(report)
        print(f"{report.stem:32} {closing_line(counts)} in {counts.seconds:.0f} s")
        total += counts
        reasons += skips
    for reason, number in reasons.most_common():
        print(f"skipped {number} times: {reason}")
    print(closing_line(total), flush=True)
    sys.exit(bool(total.failed) or not total.passed)


if __name__ == "__main__":
    main()
