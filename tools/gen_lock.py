"""Write tools/constraints.txt: one version of everything that CI installs, with the hashes of its files.

And tools/requirements-nox.txt: nox alone, as an older pip wants it, which takes no hashes from constraints.

python tools/gen_lock.py [--upgrade]   resolve anew, for every supported Python; asks PyPI (needs uv, the group `lock`)
python tools/gen_lock.py --check       what is required anywhere has its line there; asks nobody
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from workspace import ROOT, root_group

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CONSTRAINTS", "NOX", "check", "main", "requirements"]

CONSTRAINTS = ROOT / "tools" / "constraints.txt"
NOX = ROOT / "tools" / "requirements-nox.txt"
_HEAD = "# Written by tools/gen_lock.py; do not edit. Versions and hashes of what CI installs.\n"
_LINE = re.compile(r"(?m)^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_PYTHON = "3.11"  # the lowest that is supported; uv adds markers for the others


def requirements(root: Path = ROOT) -> list[str]:
    """Every requirement of a package, an extra, a build or a group below `root` that is no package of this checkout."""
    files = [root / "pyproject.toml", *sorted(root.glob("packages/*/pyproject.toml"))]
    data = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]
    own = {canonicalize_name(one["project"]["name"]) for one in data if "project" in one}
    found = dict.fromkeys(word for one in data for word in _of(one))
    return sorted(word for word in found if canonicalize_name(Requirement(word).name) not in own)


def _of(data: dict[str, Any]) -> list[str]:
    project = data.get("project", {})
    found = [*data.get("build-system", {}).get("requires", ()), *project.get("dependencies", ())]
    for part in (*project.get("optional-dependencies", {}).values(), *data.get("dependency-groups", {}).values()):
        found += [word for word in part if isinstance(word, str)]  # a table includes another group
    return found


def check(wanted: list[str], constraints: str) -> list[str]:
    """One sentence for each requirement that `constraints` does not answer."""
    versions: dict[str, list[str]] = {}
    for name, version in _LINE.findall(constraints):
        versions.setdefault(canonicalize_name(name), []).append(version)
    faults = []
    for word in wanted:
        requirement = Requirement(word)
        there = versions.get(canonicalize_name(requirement.name))
        if there is None:
            faults.append(f"{word} is not locked")
        elif not any(requirement.specifier.contains(version, prereleases=True) for version in there):
            faults.append(f"{word} is not met by {', '.join(there)}, which is locked")
    return faults


def _write(target: Path, wanted: list[str], *more: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--universal", "--generate-hashes", "--quiet"]
    options = ["--python-version", _PYTHON, "--no-header", "--no-annotate", "--output-file", str(target), *more]
    subprocess.run([*command, *options], input="\n".join(wanted), text=True, check=True)
    target.write_text(_HEAD + target.read_text(encoding="utf-8").removeprefix(_HEAD), encoding="utf-8")


def main() -> None:
    """Do what the command line says."""
    wanted = requirements()
    if sys.argv[1:] in ([], ["--upgrade"]):
        _write(CONSTRAINTS, wanted, *sys.argv[1:])
        _write(NOX, root_group("nox"), "--constraint", str(CONSTRAINTS))
    elif sys.argv[1:] != ["--check"]:
        sys.exit(__doc__)
    locked, nox = CONSTRAINTS.read_text(encoding="utf-8"), NOX.read_text(encoding="utf-8")
    faults = check(wanted, locked) + check([f"{name}=={version}" for name, version in _LINE.findall(nox)], locked)
    faults += check(root_group("nox"), nox)
    if faults:
        sys.exit("\n".join([*faults, "python tools/gen_lock.py writes it anew"]))


if __name__ == "__main__":
    main()
