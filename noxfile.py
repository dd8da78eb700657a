"""All checks, each in an environment of its own; `sh tools/check.sh` runs the default ones. The work is in tools/."""

from __future__ import annotations

import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from kernels import SUITES  # noqa: E402 -- as below
from stage import RESULTS, stage  # noqa: E402 -- tools/ is no package: its scripts run as they are
from wheelhouse import links  # noqa: E402
from workspace import TESTKIT, load  # noqa: E402

PACKAGES = load()
COMPILED = "sandlock-sys"

nox.options.envdir = str(stage())
nox.options.default_venv_backend = "virtualenv"
nox.needs_version = ">=2025.2.9"


def group(name: str, file: Path = ROOT / "pyproject.toml") -> list[str]:
    """The requirements of a dependency group; none if the file has no such group."""
    pyproject = nox.project.load_toml(file)
    if name not in pyproject.get("dependency-groups", {}):
        return []
    return list(nox.project.dependency_groups(pyproject, name))


def fetch(session: nox.Session, *requirements: str) -> None:
    """Install requirements in the versions, and the files, that tools/constraints.txt names."""
    session.install("--constraint", str(ROOT / "tools" / "constraints.txt"), *dict.fromkeys(requirements))


def install(session: nox.Session, package: str, *requirements: str) -> None:
    """Install one package from the wheelhouse with what it declares, and nothing else of this checkout."""
    fetch(session, *links(package), *requirements)


def run_tests(session: nox.Session, package: str, *options: str) -> None:
    """Run the tests of one package beside its own requirements, its test group and the testkit."""
    install(session, package, *links(TESTKIT), *group("test", PACKAGES[package].folder / "pyproject.toml"))
    session.run("python", "tools/run_tests.py", f"packages/{package}/tests", *options, *session.posargs)


@nox.session(name="wheels")
def build_wheels(session: nox.Session) -> None:
    """Build the wheels of all packages into .wheelhouse; the sessions below install those."""
    fetch(session, *group("wheels"))
    session.run("python", "tools/wheelhouse.py", "build")


@nox.session(requires=["wheels"])
def lint(session: nox.Session) -> None:
    """Style, layers, budgets, pins, and that generated files are what their generators write."""
    third_party = {requirement for package in PACKAGES.values() for requirement in package.third_party}
    fetch(session, *group("lint"), *sorted(third_party), *links(COMPILED))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    source = {"PYTHONPATH": ":".join(str(package.source.parent) for package in PACKAGES.values())}
    session.run("lint-imports", "--no-cache", env=source)
    session.run("python", "tools/check_budget.py")
    session.run("python", "tools/check_pins.py")
    # The sources, but for the one package that is of no use before it is compiled: that is the installed wheel.
    others = [str(package.source.parent) for name, package in PACKAGES.items() if name != COMPILED]
    for generator in sorted(ROOT.glob("tools/gen_*.py")):
        session.run("python", str(generator), "--check", env={"PYTHONPATH": ":".join(others)})


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over packages, tools and tests."""
    wanted = {
        requirement for package in PACKAGES.values() for requirement in (*package.third_party, *package.test_group)
    }
    fetch(session, *group("types"), *group("tools"), *group("integration"), *sorted(wanted))
    session.run("python", "tools/check_types.py")


@nox.session(requires=["wheels"])
def tools(session: nox.Session) -> None:
    """The tests of tools/."""
    install(session, TESTKIT, *links("sandlock-notif"), *group("tools"))
    session.run("pytest", "-p", "no:cacheprovider", f"--junitxml={RESULTS}/tools.xml", "tools/tests", *session.posargs)


@nox.session(requires=["wheels"])
@nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
def tests(session: nox.Session, package: str) -> None:
    """The tests of one package, with that package and its declared requirements only; as root and as a user."""
    run_tests(session, package)


@nox.session(requires=["wheels"])
def integration(session: nox.Session) -> None:
    """What holds for the whole: attacks on real sandboxes, the command, the public API; as root and as a user."""
    install(session, "sandlock", *links(TESTKIT), *group("integration"))
    session.run("python", "tools/run_tests.py", "tests-integration", *session.posargs)


@nox.session(requires=["wheels"])
def build(session: nox.Session) -> None:
    """Wheels are complete and repeatable, have bills of materials, and once installed give a command that confines."""
    fetch(session, *group("wheels"))
    session.run("python", "tools/wheelhouse.py", "verify")
    install(session, "sandlock", *group("sbom"))
    session.run("python", "tools/sbom.py")
    session.run(
        "sandlock", "run", "--", "python3", "-c", "print('confined')", env={"PATH": f"{session.bin}:/usr/bin:/bin"}
    )


@nox.session(requires=["wheels"])
def docs(session: nox.Session) -> None:
    """The site builds without a warning, links lead somewhere, examples marked `run` do what the page says."""
    install(session, "sandlock", *group("docs"), *group("site"))
    session.run("python", "tools/build_site.py")
    session.run("python", "tools/check_docs.py")


@nox.session(default=False, requires=["wheels"])
def bench(session: nox.Session) -> None:
    """The benchmarks: paired runs, ratios; not in CI, whose machine is not quiet."""
    install(session, "sandlock")
    session.run("python", "benchmarks/report.py", *session.posargs, success_codes=[0, 1])  # 1: a budget is not met


@nox.session(default=False, requires=["wheels"])
@nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
def fuzz(session: nox.Session, package: str) -> None:
    """The property tests of one package with 20,000 new examples each."""
    run_tests(session, package, "-m", "hypothesis", "--hypothesis-profile=fuzz", "-o", "timeout=0")


@nox.session(default=False, requires=["wheels"])
@nox.parametrize("sanitizer", [nox.param(name, id=name) for name in ("address", "thread", "fuzz")])
def sanitize(session: nox.Session, sanitizer: str) -> None:
    """The tests of what has C under it, with a sanitizer in that C; fuzz: see tools/sanitize.py."""
    install(session, "sandlock", *links(TESTKIT), *group("integration"), *group("wheels"))
    session.run("python", "tools/sanitize.py", sanitizer, *session.posargs)


@nox.session(default=False, requires=["wheels"])
@nox.parametrize("kernel", [nox.param(name, id=name) for name in ("host", "6.1", "6.12")])
def kernels(session: nox.Session, kernel: str) -> None:
    """The report and the suites, or what follows `--`, under an older Debian kernel in a virtual machine; needs root.

    On the host's kernel they run with its Landlock used as Linux 6.1's.
    """
    tested = [folder.split("/")[1] for folder, _ in SUITES if folder.startswith("packages/")]
    suites = [wanted for name in tested for wanted in group("test", PACKAGES[name].folder / "pyproject.toml")]
    install(session, "sandlock", *links(TESTKIT), *group("integration"), *group("kernels"), *suites)
    session.run("python", "tools/kernels.py", kernel, *session.posargs)


@nox.session(default=False)
@nox.parametrize("machine", ["aarch64", "riscv64"])
def emulated(session: nox.Session, machine: str) -> None:
    """The trials of the support matrix on an emulated machine with Debian's kernel; needs root and Debian."""
    session.install(*group("wheels"))
    session.run("python", "tools/emulated.py", machine, *session.posargs)
