"""tools/check_pins.py finds pins that disagree, undeclared imports and fragments that a release would lose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import check_pins
import pytest
from copies import CHECKOUT, write_package


def three_packages(root: Path, middle_pin: str = "==0.1.0", top_source: str = "import sandlock_low") -> Path:
    write_package(root, "sandlock-low")
    write_package(root, "sandlock-middle", f"sandlock-low{middle_pin}", "cffi>=1.17", source="import sandlock_low")
    write_package(root, "sandlock-top", "sandlock-middle==0.1.0", "sandlock-low==0.1.0", source=top_source)
    return root


def test_agreeing_pins_pass(tmp_path: Path) -> None:
    assert check_pins.check(three_packages(tmp_path)) == []


@pytest.mark.parametrize("pin", ["", ">=0.1.0", "~=0.1", "==0.2.0", "==0.1.0,!=0.3"])
def test_a_pin_that_is_not_exactly_the_version_is_found(tmp_path: Path, pin: str) -> None:
    words = f"sandlock-middle requires sandlock-low{pin}; the pin must be sandlock-low==0.1.0"
    assert check_pins.check(three_packages(tmp_path, pin)) == [words]


@pytest.mark.parametrize(
    "source", ["import sandlock_top", "from sandlock_top.x import y", "def f():\n    import sandlock_top.x"]
)
def test_an_undeclared_import_is_found_lazy_ones_too(tmp_path: Path, source: str) -> None:
    root = three_packages(tmp_path)
    (root / "packages/sandlock-low/src/sandlock_low/lazy.py").write_text(source)
    where = "packages/sandlock-low/src/sandlock_low/lazy.py"
    assert check_pins.check(root) == [f"{where} imports sandlock-top, which sandlock-low does not declare"]


def test_a_package_that_requires_the_testkit_is_found(tmp_path: Path) -> None:
    write_package(tmp_path, "sandlock-testkit")
    write_package(tmp_path, "sandlock-low", "sandlock-testkit==0.1.0")
    assert "never published" in check_pins.check(tmp_path)[0]


def test_a_circle_is_an_error(tmp_path: Path) -> None:
    write_package(tmp_path, "sandlock-low", "sandlock-top==0.1.0")
    write_package(tmp_path, "sandlock-top", "sandlock-low==0.1.0")
    with pytest.raises(ValueError, match="in a circle: sandlock-low, sandlock-top"):
        check_pins.check(tmp_path)


@pytest.mark.parametrize("name", ["12.fixed.md", "+quick-start.added.md", "12.fixed.1.md", ".gitignore"])
def test_a_well_named_fragment_passes(tmp_path: Path, name: str) -> None:
    root = three_packages(tmp_path)
    (root / "packages/sandlock-low/changes" / name).write_text("Words.\n")
    assert check_pins.check(root) == []


@pytest.mark.parametrize("name", ["12.bugfix.md", "quick-start.added.md", "12.fixed.txt", "12.fixed", "README.md"])
def test_an_ill_named_fragment_is_found(tmp_path: Path, name: str) -> None:
    root = three_packages(tmp_path)
    (root / "packages/sandlock-low/changes" / name).write_text("Words.\n")
    assert f"sandlock-low/changes/{name}: a fragment is" in check_pins.check(root)[0]


def test_the_command_exits_with_1_and_prints_the_fault(tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKOUT / "tools" / "check_pins.py"), str(three_packages(tmp_path, "==9.9.9"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "sandlock-low==9.9.9" in done.stdout
