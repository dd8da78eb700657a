"""tools/summary.py adds up what pytest really wrote, and closes with one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import summary

TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError("no")

@pytest.fixture
def broken_at_the_end():
    yield
    raise OSError("no")

def test_pass(): pass
def test_pass_too(): pass
def test_fail(): assert False
def test_error(broken): pass
def test_error_at_the_end(broken_at_the_end): pass
@pytest.mark.skip(reason="this host has no such thing")
def test_skip(): pass
"""


def write_report(folder: Path, name: str, text: str) -> None:
    (folder / "tests").mkdir(exist_ok=True)
    file = folder / "tests" / f"test_{name}.py"
    file.write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={folder}/{name}.xml"]
    subprocess.run([*command, str(file)], cwd=folder, capture_output=True, check=False)


def outcome(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[object, list[str]]:
    monkeypatch.setattr(sys, "argv", ["summary.py"])
    with pytest.raises(SystemExit) as exit_:
        summary.main(folder)
    return exit_.value.code, capsys.readouterr().out.splitlines()


def test_errors_of_fixtures_are_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, "all", TESTS)
    code, lines = outcome(tmp_path, capsys, monkeypatch)
    assert code == 1
    assert lines[-1] == "2 passed, 3 failed, 1 skipped"
    assert lines[-2] == "skipped 1 times: this host has no such thing"


def test_runs_are_added_up_and_success_is_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, "one", "def test_one(): pass\n")
    write_report(tmp_path, "two", "def test_one(): pass\ndef test_two(): pass\n")
    code, lines = outcome(tmp_path, capsys, monkeypatch)
    assert code == 0
    assert [line.partition(" in ")[0].split(maxsplit=1) for line in lines[:-1]] == [
        ["one", "1 passed, 0 failed, 0 skipped"],
        ["two", "2 passed, 0 failed, 0 skipped"],
    ]
    assert lines[-1] == "3 passed, 0 failed, 0 skipped"


def test_no_test_at_all_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome(tmp_path, capsys, monkeypatch) == (1, ["0 passed, 0 failed, 0 skipped"])


def test_clear_removes_the_reports_of_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.xml").write_text("<testsuites/>")
    monkeypatch.setattr(sys, "argv", ["summary.py", "clear"])
    summary.main(tmp_path / "results")
    assert not (tmp_path / "results").exists()
