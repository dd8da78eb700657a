"""What an older kernel is asked, and that a report which differs from its record is told."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import kernels
import run_tests
from machine_compare import differences
from summary import read
from workspace import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SLOW = """
import time

def test_first(): time.sleep(2)
def test_second(): pass
"""


def test_a_degradation_that_is_no_longer_named_is_told() -> None:
    record = json.loads((ROOT / "docs/machines/x86_64-6.1.json").read_text())
    found = copy.deepcopy(record)
    found["kernel"], found["date"] = "another build", "2030-01-01"
    assert differences(record, found) == []
    row = next(row for row in found["trials"] if (row["name"], row["namespaces"]) == ("plain", "off"))
    assert row["state"] == "refused", "Linux 6.1 without namespaces"
    row["state"] = "works"
    del found["protections"][0]
    told = differences(record, found)
    assert len(told) == 2
    assert "not told now" in told[0]
    assert told[1] == "trials: plain off: refused in the record, works now"


def test_all_suites_are_asked_within_a_stated_time() -> None:
    assert {folder for folder, _ in kernels.SUITES} <= {
        path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("packages/*/tests"), ROOT / "tests-integration"]
    }
    script = kernels.suites_script("6.1", [])
    for folder, seconds in kernels.SUITES:
        assert f"SANDLOCK_TEST_SECONDS={seconds} " in script
        assert f" {folder} " in script


def test_a_suite_that_its_time_ends_counts_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_it.py").write_text(SLOW)
    monkeypatch.setenv("SANDLOCK_TEST_SECONDS", "1")
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(
        [*command, *run_tests.within_time()], cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), "not interrupted: the test that runs is run to its end"
    counts, _ = read(tmp_path / "report.xml")
    assert (counts.passed, counts.failed) == (1, 0)
    monkeypatch.delenv("SANDLOCK_TEST_SECONDS")
    assert run_tests.within_time() == []
