"""The packages of this checkout: where they are, what they require of each other, what their tests require."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "TESTKIT", "Package", "closure", "dependents", "load", "main", "root_group"]

ROOT = Path(__file__).resolve().parent.parent
TESTKIT = "sandlock-testkit"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(.*)")


@dataclass(frozen=True, slots=True)
class Package:
    """One distribution. `pins` holds what it requires of this checkout: name -> specifier, such as `==0.1.0`."""

    name: str
    folder: Path
    version: str
    pins: dict[str, str]
    third_party: tuple[str, ...]
    test_group: tuple[str, ...]

    @property
    def import_name(self) -> str:
        """The name it is imported by."""
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        """The folder that holds its modules."""
        return self.folder / "src" / self.import_name


def load(root: Path = ROOT) -> dict[str, Package]:
    """All packages below `root`/packages by name, every package after those it requires.

    Raises ValueError for a circle of requirements.
    """
    found = {}
    for file in sorted(root.glob("packages/*/pyproject.toml")):
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        found[data["project"]["name"]] = data
    packages = {name: _package(root, data, set(found)) for name, data in found.items()}
    ordered: dict[str, Package] = {}
    while left := {name: package for name, package in packages.items() if name not in ordered}:
        ready = {name: package for name, package in left.items() if ordered.keys() >= package.pins.keys()}
        if not ready:
            raise ValueError(f"packages require each other in a circle: {', '.join(sorted(left))}")
        ordered |= ready
    return ordered


def _package(root: Path, data: dict[str, Any], own: set[str]) -> Package:
    project = data["project"]
    pins: dict[str, str] = {}
    third_party = []
    for requirement in project.get("dependencies", []):
        match = _REQUIREMENT.fullmatch(requirement)
        if match and match[1] in own:
            pins[match[1]] = match[2]
        else:
            third_party.append(requirement)
    tests = tuple(data.get("dependency-groups", {}).get("test", ()))
    folder = root / "packages" / project["name"]
    return Package(project["name"], folder, project["version"], pins, tuple(third_party), tests)


def closure(packages: dict[str, Package], name: str) -> list[Package]:
    """The package and all that it requires of this checkout, directly or not, lowest first."""
    wanted = {name}
    for package in reversed(packages.values()):
        if package.name in wanted:
            wanted |= package.pins.keys()
    return [package for package in packages.values() if package.name in wanted]


def dependents(packages: dict[str, Package], name: str) -> list[Package]:
    """All packages that require `name`, directly or not, lowest first."""
    return [package for package in packages.values() if package.name != name and _requires(packages, package, name)]


def _requires(packages: dict[str, Package], package: Package, name: str) -> bool:
    return any(low.name == name for low in closure(packages, package.name))


def root_group(name: str, root: Path = ROOT) -> list[str]:
    """The requirements of one of the tooling's own groups, from the pyproject.toml at the top."""
    groups = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    return list(groups[name])


def main() -> None:
    """Print PYTHONPATH (`path`) or what to install of here (`folders NAME`)."""
    match sys.argv[1:]:
        case ["path"]:
            print(os.pathsep.join(str(package.source.parent) for package in load().values()))
        case ["folders", name]:
            print("\n".join(str(package.folder) for package in closure(load(), name)))
        case _:
            sys.exit(main.__doc__)


if __name__ == "__main__":
    main()
