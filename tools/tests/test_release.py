"""tools/release.py, on a copy of this checkout: what it plans, what it writes, what it refuses."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import release
from copies import copy_checkout, write_package
from workspace import dependents, load


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "release.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def project(root: Path, name: str) -> dict[str, object]:
    data = tomllib.loads((root / "packages" / name / "pyproject.toml").read_text())
    found = data["project"]
    assert isinstance(found, dict)
    return found


def snapshot(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() for path in files}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy in which sandlock-arch alone has something to tell."""
    root = copy_checkout(tmp_path)
    for fragment in root.glob("packages/*/changes/*.md"):
        fragment.unlink()
    (root / "packages/sandlock-arch/changes/12.fixed.md").write_text("Stubs honour a null timeval.\n")
    return root


@pytest.mark.parametrize(
    ("version", "part", "after"),
    [
        ("0.1.9", "patch", "0.1.10"),
        ("0.1.9", "minor", "0.2.0"),
        ("0.1.9", "major", "1.0.0"),
        ("2.0.0", "patch", "2.0.1"),
    ],
)
def test_the_lower_numbers_start_anew(version: str, part: str, after: str) -> None:
    assert release.bumped(version, part) == after


def test_everything_above_is_bumped_and_repinned_and_nothing_beside(checkout: Path) -> None:
    packages = load(checkout)
    before = {name: package.version for name, package in packages.items()}
    above = {package.name for package in dependents(packages, "sandlock-arch")}
    assert {"sandlock-policy", "sandlock"} <= above
    assert "sandlock-sys" not in above
    done = run(checkout, "sandlock-arch", "minor")
    assert done.returncode == 0, done.stderr
    after = load(checkout)
    assert after["sandlock-arch"].version == release.bumped(before["sandlock-arch"], "minor")
    for name, package in after.items():
        expected = release.bumped(before[name], "patch") if name in above else before[name]
        assert name == "sandlock-arch" or package.version == expected
        for pin, specifier in package.pins.items():
            assert specifier == f"=={after[pin].version}"
    pins = subprocess.run([sys.executable, str(checkout / "tools/check_pins.py")], check=False)
    assert pins.returncode == 0


def test_the_changelog_gets_the_fragments_and_the_fragments_go(checkout: Path) -> None:
    assert run(checkout, "sandlock-arch", "patch").returncode == 0
    arch = (checkout / "packages/sandlock-arch/CHANGELOG.md").read_text()
    assert f"## {project(checkout, 'sandlock-arch')['version']} (" in arch
    assert "### Fixed" in arch
    assert "- Stubs honour a null timeval. (#12)" in arch
    policy = (checkout / "packages/sandlock-policy/CHANGELOG.md").read_text()
    assert f"- Requires sandlock-arch {project(checkout, 'sandlock-arch')['version']}." in policy
    assert list(checkout.glob("packages/*/changes/*.md")) == []


def test_a_second_release_stands_above_the_first(checkout: Path) -> None:
    assert run(checkout, "sandlock-arch", "patch").returncode == 0
    (checkout / "packages/sandlock-arch/changes/+second.added.md").write_text("A second thing.\n")
    assert run(checkout, "sandlock-arch", "minor").returncode == 0
    text = (checkout / "packages/sandlock-arch/CHANGELOG.md").read_text()
    assert text.startswith("# Changelog of sandlock-arch\n")
    assert text.index("A second thing.") < text.index("null timeval")


def test_a_dry_run_prints_plan_and_changelog_and_writes_nothing(checkout: Path) -> None:
    before = snapshot(checkout)
    done = run(checkout, "sandlock-arch", "minor", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert snapshot(checkout) == before
    version = release.bumped(load(checkout)["sandlock-arch"].version, "minor")
    assert f"-> {version}\n" in done.stdout
    assert f"requires sandlock-arch=={version}" in done.stdout
    assert "Stubs honour a null timeval." in done.stdout


def test_a_release_without_a_fragment_is_refused(checkout: Path) -> None:
    before = snapshot(checkout)
    done = run(checkout, "sandlock-sys", "patch")
    assert done.returncode != 0
    assert "packages/sandlock-sys/changes has no fragment" in done.stderr
    assert snapshot(checkout) == before


def test_a_tree_whose_pins_disagree_is_refused(checkout: Path) -> None:
    file = checkout / "packages/sandlock-cli/pyproject.toml"
    file.write_text(file.read_text().replace('"sandlock-arch==', '"sandlock-arch>='))
    done = run(checkout, "sandlock-arch", "patch")
    assert done.returncode != 0
    assert "the pin must be sandlock-arch==" in done.stderr


@pytest.mark.parametrize("name", ["sandlock-testkit", "sandlock-nothing"])
def test_only_published_packages_are_released(checkout: Path, name: str) -> None:
    done = run(checkout, name, "patch")
    assert done.returncode != 0
    assert f"no package '{name}' to release" in done.stderr


def test_a_dependent_with_additions_of_its_own_gets_a_minor_version(tmp_path: Path) -> None:
    low = write_package(tmp_path, "sandlock-low")
    top = write_package(tmp_path, "sandlock-top", "sandlock-low==0.1.0", version="0.3.1")
    (low / "changes" / "1.fixed.md").write_text("Words.\n")
    (top / "changes" / "2.fixed.md").write_text("Words.\n")
    assert [bump.version for bump in release.plan(load(tmp_path), "sandlock-low", "patch")] == ["0.1.1", "0.3.2"]
    (top / "changes" / "3.added.md").write_text("Words.\n")
    assert [bump.version for bump in release.plan(load(tmp_path), "sandlock-low", "patch")] == ["0.1.1", "0.4.0"]
