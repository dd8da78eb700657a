"""What a release rests on: exact pins that agree, declared imports, well-named change fragments.

* A package requires another one of this checkout as `==VERSION`, and VERSION is what that one has now.
* What its modules import of this checkout is declared, and the testkit is no one's dependency.
* Every file in `changes/` is `NUMBER.TYPE.md` or `+words.TYPE.md`, so that no change is lost at a release.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from workspace import ROOT, TESTKIT, Package, load

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check", "fragment_types", "main"]


def check(root: Path) -> list[str]:
    """One sentence for each fault below `root`."""
    packages = load(root)
    by_import = {package.import_name: package.name for package in packages.values()}
    types = fragment_types()
    faults: list[str] = []
    for package in packages.values():
        faults += _pin_faults(package, packages)
        faults += _import_faults(package, by_import)
        faults += _fragment_faults(package, types)
    return faults


def fragment_types() -> list[str]:
    """The kinds of change that have a heading in the changelogs."""
    settings = tomllib.loads((ROOT / "tools" / "towncrier.toml").read_text(encoding="utf-8"))
    return [kind["directory"] for kind in settings["tool"]["towncrier"]["type"]]


def _pin_faults(package: Package, packages: dict[str, Package]) -> Iterator[str]:
    for name, specifier in package.pins.items():
        wanted = f"=={packages[name].version}"
        if specifier != wanted:
            yield f"{package.name} requires {name}{specifier}; the pin must be {name}{wanted}"
        if name == TESTKIT:
            yield f"{package.name} requires {TESTKIT}, which is never published; tests get it without being asked"
    if not re.fullmatch(r"\d+\.\d+\.\d+", package.version):
        yield f"{package.name} has version {package.version}; three numbers are expected"


def _import_faults(package: Package, by_import: dict[str, str]) -> Iterator[str]:
    allowed = package.pins.keys() | {package.name}
    for file in sorted(package.source.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        for name in sorted({by_import[top] for top in _imported(tree) if top in by_import}):
            if name not in allowed:
                where = file.relative_to(package.folder.parent.parent)
                yield f"{where} imports {name}, which {package.name} does not declare"


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _fragment_faults(package: Package, types: list[str]) -> Iterator[str]:
    shape = re.compile(rf"(\d+|\+[\w.-]+)\.({'|'.join(types)})(\.\d+)?\.md")
    for file in sorted((package.folder / "changes").glob("*")):
        if file.name != ".gitignore" and not shape.fullmatch(file.name):
            yield f"{package.name}/changes/{file.name}: a fragment is NUMBER.TYPE.md or +words.TYPE.md; TYPE: {types}"


def main() -> None:
    """Print the faults of this checkout (or of the folder given) and exit with 1 if there are any."""
    faults = check(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
