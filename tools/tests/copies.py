"""A small checkout to plant faults in."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["CHECKOUT", "copy_checkout", "write_package"]

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def write_package(root: Path, name: str, *requirements: str, version: str = "0.1.0", source: str = "") -> Path:
    """Write a package with one module and no fragment; returns its folder."""
    folder = root / "packages" / name
    module = folder / "src" / name.replace("-", "_")
    module.mkdir(parents=True)
    (folder / "changes").mkdir()
    (module / "__init__.py").write_text(source)
    lines = "".join(f'    "{requirement}",\n' for requirement in requirements)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = [\n{lines}]\n'
    )
    (folder / "CHANGELOG.md").write_text(f"# Changelog of {name}\n\n<!-- releases -->\n")
    return folder


def copy_checkout(to: Path) -> Path:
    """Copy what a release touches or reads: packages without their builds, and tools."""
    junk = shutil.ignore_patterns("__pycache__", "*.so", "_guard", "build", "dist")
    for name in ("packages", "tools"):
        shutil.copytree(CHECKOUT / name, to / name, ignore=junk)
    return to
