"""The start-up: what it must not load, and that the quick finder loads what the ordinary one would."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import sandlock_cli
from sandlock_cli.start import QuickFinder, QuickLoader

HEAVY = set(
    "argparse asyncio collections contextlib dataclasses enum functools importlib.util inspect json logging pathlib re "
    "shutil signal socket subprocess tempfile threading tomllib traceback typing urllib warnings".split()
)


def names_in(trace: str) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in trace.splitlines() if line.startswith("import time:")}


def loaded_by(code: str, *words: str) -> set[str]:
    """Return the modules that an interpreter loads for `code`, those of its own start-up included."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return names_in(done.stderr)


def loaded_by_command(*words: str) -> set[str]:
    """Return the modules that the command loads beyond what a bare interpreter does (`.pth` files are not ours)."""
    return loaded_by("from sandlock_cli.start import start; start()", *words) - loaded_by("pass")


@pytest.mark.parametrize(
    "abi",
    [
        pytest.param("", marks=pytest.mark.needs("landlock", level=6)),
        pytest.param("2", marks=[pytest.mark.needs("landlock", level=2), pytest.mark.needs("pid_namespace")]),
    ],
)
def test_a_run_loads_nothing_heavy(abi: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDLOCK_LANDLOCK_ABI", abi)
    loaded = loaded_by_command("run", "-r", "/usr", "-t", "9", "--env", "A=1", "--", "/bin/true")
    assert "sandlock_cli.run" in loaded, "the trace is there"
    assert loaded & HEAVY == set()


@pytest.mark.needs("landlock", level=6)
def test_a_plain_run_loads_no_grammar_and_no_other_verb() -> None:
    loaded = loaded_by_command("run", "--", "/bin/true")
    assert "sandlock_cli.run" in loaded
    for name in ("hints", "failure", "report", "help", "verbs"):
        assert f"sandlock_cli.{name}" not in loaded
    assert not any(name.startswith("sandlock_policy.rules.") for name in loaded)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "sandlock_cli"
    (folder / "inner").mkdir(parents=True)
    (folder / "one.py").write_text("VALUE = 1\n")
    (folder / "inner" / "__init__.py").write_text("VALUE = 2\n")
    return tmp_path


def test_a_module_is_found_where_its_package_is(package: Path) -> None:
    spec = QuickFinder(str(package)).find_spec("sandlock_cli.one", [str(package / "sandlock_cli")])
    assert spec is not None
    assert isinstance(spec.loader, QuickLoader)
    assert spec.origin == spec.loader.get_filename("sandlock_cli.one") == str(package / "sandlock_cli" / "one.py")
    assert spec.loader.get_source("sandlock_cli.one") == "VALUE = 1\n"
    inner = QuickFinder(str(package)).find_spec("sandlock_cli.inner", [str(package / "sandlock_cli")])
    assert inner is not None
    assert inner.submodule_search_locations == [str(package / "sandlock_cli" / "inner")]


@pytest.mark.parametrize("name", ["options", "run", "start"])
def test_its_findings_are_those_of_the_ordinary_finder(name: str) -> None:
    path = list(sandlock_cli.__path__)
    quick = QuickFinder(os.path.dirname(path[0])).find_spec(f"sandlock_cli.{name}", path)
    ordinary = PathFinder.find_spec(f"sandlock_cli.{name}", path)
    assert quick is not None
    assert ordinary is not None
    for attribute in ("name", "origin", "cached", "has_location", "parent", "submodule_search_locations"):
        assert getattr(quick, attribute) == getattr(ordinary, attribute)
    assert quick.origin is not None
    assert quick.cached == cache_from_source(quick.origin)


def test_what_is_not_ours_or_not_a_plain_file_is_left_to_others(package: Path) -> None:
    finder = QuickFinder(str(package))
    assert finder.find_spec("json", None) is None
    assert finder.find_spec("json.decoder", [str(package)]) is None
    assert finder.find_spec("sandlock_sys._ffi", [str(package)]) is None
    assert finder.find_spec("sandlock_cli.one", [str(package), "/elsewhere"]) is None
    assert finder.find_spec("sandlock_policy", None) is None, "it is not in this folder"


def value_of(package: Path) -> int:
    spec = QuickFinder(str(package)).find_spec("sandlock_cli.one", [str(package / "sandlock_cli")])
    assert spec is not None
    assert isinstance(spec.loader, QuickLoader)
    code = spec.loader.get_code("sandlock_cli.one")
    assert code is not None
    space: dict[str, int] = {}
    exec(code, space)  # noqa: S102 - what a loader is for
    return space["VALUE"]


def test_a_compiled_file_counts_only_for_the_source_that_is_there(package: Path) -> None:
    source = package / "sandlock_cli" / "one.py"
    compiled = Path(py_compile.compile(str(source), doraise=True) or "")
    assert value_of(package) == 1
    source.write_text("VALUE = 33\n")
    assert value_of(package) == 33, "another size"
    os.utime(source, (1, 1))
    assert value_of(package) == 33, "another time"
    compiled.write_bytes(b"garbage")
    assert value_of(package) == 33
    compiled.unlink()
    assert value_of(package) == 33


def test_a_compiled_file_of_its_own_source_is_what_is_loaded(package: Path) -> None:
    source = package / "sandlock_cli" / "one.py"
    source.write_text("VALUE = 5\n")
    os.utime(source, (1000, 1000))
    py_compile.compile(str(source), doraise=True)
    source.write_text("VALUE = 6\n")
    os.utime(source, (1000, 1000))  # same size, same time: nobody could tell, and neither do we
    assert value_of(package) == 5


def test_hash_based_compiled_files_are_left_to_the_ordinary_loader(package: Path) -> None:
    source = package / "sandlock_cli" / "one.py"
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    py_compile.compile(str(source), doraise=True, invalidation_mode=mode)
    assert value_of(package) == 1
    source.write_text("VALUE = 7\n")
    assert value_of(package) == 7


def test_an_error_in_our_code_shows_its_source(tmp_path: Path) -> None:
    code = (
        "from sandlock_cli.start import QuickFinder; import sys, os, sandlock_cli\n"
        "sys.meta_path.insert(0, QuickFinder(os.path.dirname(sandlock_cli.__path__[0])))\n"
        "import sandlock_cli.options as o\n"
        "o.parse([1], {}, 'x')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "in parse\n" in done.stderr
    assert 'if word[:1] != "-"' in done.stderr
