"""Build the wheels of all packages into .wheelhouse, and prove that they can be built again, byte by byte.

python tools/wheelhouse.py build           all wheels, anew; needs hatchling and cffi
python tools/wheelhouse.py verify          sdist -> wheel in an isolated build equals the wheel in .wheelhouse
python tools/wheelhouse.py closure NAME    print the wheels of a package and of what it requires
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from workspace import ROOT, Package, closure, load

__all__ = ["EPOCH", "WHEELHOUSE", "build", "links", "main", "verify", "wheels"]

WHEELHOUSE = ROOT / ".wheelhouse"
# Any fixed date makes a build repeatable; this one is hatchling's own default (2020-02-02).
EPOCH = "1580601600"
_ENVIRONMENT = {"SOURCE_DATE_EPOCH": EPOCH} | os.environ


def build() -> None:
    """Empty the wheelhouse and fill it."""
    shutil.rmtree(WHEELHOUSE, ignore_errors=True)
    for package in load().values():
        _hatchling(package, "wheel", WHEELHOUSE)


def verify() -> None:
    """Build every wheel a second time, from its sdist, with only its declared build requirements.

    Raises SystemExit naming the packages whose second wheel differs: a file is missing in the sdist, or the build
    depends on where or when it is made.
    """
    differing = []
    for package in load().values():
        with tempfile.TemporaryDirectory() as folder:
            _hatchling(package, "sdist", Path(folder))
            (sdist,) = Path(folder).glob("*.tar.gz")
            # The builders of the first build: a newer cffi writes another glue, which is no fault of ours.
            builders = str(ROOT / "tools" / "constraints.txt")
            pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--build-constraint", builders]
            subprocess.run([*pip, "-w", folder, str(sdist)], check=True, env=_ENVIRONMENT)
            (second,) = Path(folder).glob("*.whl")
            first = _wheel(package)
            same = first.name == second.name and first.read_bytes() == second.read_bytes()
        print(f"{first.name}: {'the same from its sdist' if same else 'DIFFERS'}", flush=True)
        if not same:
            differing.append(package.name)
    if differing:
        sys.exit(f"not reproducible: {', '.join(differing)}")


def wheels(name: str) -> list[str]:
    """The paths of the wheels of a package and of all that it requires of this checkout.

    Installed by path, so that an index never decides what our names mean.
    """
    return [str(_wheel(package)) for package in closure(load(), name)]


def links(name: str) -> list[str]:
    """The same as links that carry the hash, as pip demands for every file once it is given hashes for one."""
    found = [Path(path) for path in wheels(name)]
    return [f"{path.as_uri()}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" for path in found]


def _wheel(package: Package) -> Path:
    found = list(WHEELHOUSE.glob(f"{package.import_name}-{package.version}-*.whl"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"expected one wheel of {package.name} {package.version} in {WHEELHOUSE}, found {found}"
        )
    return found[0]


def _hatchling(package: Package, target: str, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(
        command, cwd=package.folder, env=_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        sys.exit(f"building {target} of {package.name} failed:\n{done.stdout.decode()}")


def main() -> None:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["build"]:
            build()
        case ["verify"]:
            verify()
        case ["closure", name]:
            print("\n".join(wheels(name)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
