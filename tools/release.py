"""Release one package: bump it, re-pin all that stands above it, write the changelogs.

    python tools/release.py sandlock-sys minor --dry-run

A pin is exact, so every package that requires the released one, directly or not, is released too: with a patch
version, or with a minor one where its own pending fragments add, change or remove something. Nothing is committed,
tagged or uploaded: the plan ends with those commands.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import check_pins
from workspace import ROOT, TESTKIT, Package, dependents, load

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Bump", "bumped", "main", "plan"]

PARTS = ("major", "minor", "patch")
_MINOR_FRAGMENTS = ("added", "changed", "removed")


class ReleaseError(Exception):
    """The release cannot be made; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Bump:
    """One package of a release: the version it had, the one it gets, and the packages it is re-pinned to."""

    package: Package
    version: str
    repinned: dict[str, str]

    def __str__(self) -> str:
        """One line of the plan."""
        pins = "".join(f", requires {name}=={version}" for name, version in self.repinned.items())
        return f"{self.package.name} {self.package.version} -> {self.version}{pins}"


def bumped(version: str, part: str) -> str:
    """The next version: `bumped("0.4.2", "minor")` is `0.5.0`."""
    numbers = [int(number) for number in version.split(".")]
    index = PARTS.index(part)
    numbers[index:] = [numbers[index] + 1] + [0] * (len(PARTS) - index - 1)
    return ".".join(map(str, numbers))


def plan(packages: dict[str, Package], name: str, part: str) -> list[Bump]:
    """What a release of `name` changes, lowest package first.

    Raises ReleaseError if the package does not exist, is never published, or has no fragment to tell of.
    """
    if name not in packages or name == TESTKIT:
        raise ReleaseError(f"no package {name!r} to release; there are: {', '.join(packages.keys() - {TESTKIT})}")
    if not _fragments(packages[name]):
        raise ReleaseError(f"nothing to release: packages/{name}/changes has no fragment (see CONTRIBUTING.md)")
    bumps = [Bump(packages[name], bumped(packages[name].version, part), {})]
    for package in dependents(packages, name):
        done = {bump.package.name: bump.version for bump in bumps}
        repinned = {pin: done[pin] for pin in package.pins if pin in done}
        bumps.append(Bump(package, bumped(package.version, _part_of_a_dependent(package)), repinned))
    return bumps


def _part_of_a_dependent(package: Package) -> str:
    kinds = {path.name.split(".")[1] for path in _fragments(package)}
    return "minor" if kinds & set(_MINOR_FRAGMENTS) else "patch"


def _fragments(package: Package) -> list[Path]:
    return sorted((package.folder / "changes").glob("*.md"))


def apply(bump: Bump) -> None:
    """Write version, pins and changelog of one package, and remove its fragments."""
    file = bump.package.folder / "pyproject.toml"
    text = file.read_text(encoding="utf-8")
    text = _replace_once(text, rf'(?m)^version = "{re.escape(bump.package.version)}"$', f'version = "{bump.version}"')
    for name, version in bump.repinned.items():
        text = _replace_once(text, rf'"{name}=={re.escape(bump.package.pins[name][2:])}"', f'"{name}=={version}"')
    file.write_text(text, encoding="utf-8")
    if bump.repinned:
        words = ", ".join(f"{name} {version}" for name, version in bump.repinned.items())
        (bump.package.folder / "changes" / "+pins.dependency.md").write_text(f"Requires {words}.\n", encoding="utf-8")
    _towncrier(bump, "--yes")


def _replace_once(text: str, pattern: str, replacement: str) -> str:
    changed, count = re.subn(pattern, replacement, text)
    if count != 1:
        raise ReleaseError(f"expected one match of {pattern} in pyproject.toml, found {count}")
    return changed


def _towncrier(bump: Bump, mode: str) -> None:
    command = [sys.executable, "-m", "towncrier", "build", mode, "--config", str(ROOT / "tools" / "towncrier.toml")]
    command += ["--dir", str(bump.package.folder), "--name", bump.package.name, "--version", bump.version]
    command += ["--date", dt.datetime.now(dt.UTC).date().isoformat()]
    subprocess.run(
        command, check=True, cwd=bump.package.folder, stdout=None if mode == "--draft" else subprocess.DEVNULL
    )


def _refuse_an_unfit_tree() -> None:
    if faults := check_pins.check(ROOT):
        raise ReleaseError("the tree is not fit for a release:\n" + "\n".join(faults))


def _print_what_is_left(bumps: list[Bump]) -> None:
    tags = [f"{bump.package.name}-{bump.version}" for bump in bumps]
    print("\nLeft to do, after a look at `git diff`:")
    print(f"    git add packages && git commit -m 'Release {', '.join(tags)}'")
    print(f"    for tag in {' '.join(tags)}; do git tag -m $tag $tag; done")
    print("    sh tools/check.sh, then upload the wheels of .wheelhouse in this order: " + ", ".join(tags))


def main() -> None:
    """Parse the command line, print the plan, carry it out unless it is a dry run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", help="the distribution to release, such as sandlock-sys")
    parser.add_argument("part", choices=PARTS, help="which number of its version goes up")
    parser.add_argument("--dry-run", action="store_true", help="print plan and changelogs, write nothing")
    arguments = parser.parse_args()
    try:
        _refuse_an_unfit_tree()
        bumps = plan(load(), arguments.package, arguments.part)
        print(*bumps, sep="\n", flush=True)
        for bump in bumps:
            if arguments.dry_run:
                _towncrier(bump, "--draft")
            else:
                apply(bump)
    except ReleaseError as error:
        sys.exit(f"release: {error}")
    if not arguments.dry_run:
        _print_what_is_left(bumps)


if __name__ == "__main__":
    main()
