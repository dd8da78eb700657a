"""An extra that a page or a message names exists, and the whole passes on every extra of its parts."""

from __future__ import annotations

import re
import tomllib

from workspace import ROOT

NAMED = re.compile(r"(sandlock[a-z-]*)\\?\[([a-z]+)\\?\]")


def extras() -> dict[str, dict[str, list[str]]]:
    found = {}
    for file in sorted(ROOT.glob("packages/*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        found[project["name"]] = project.get("optional-dependencies", {})
    return found


def test_every_extra_of_a_part_is_one_of_the_whole() -> None:
    found = extras()
    whole = found.pop("sandlock")
    assert "mcp" in whole
    for package, own in found.items():
        for extra in own:
            assert extra in whole
            if own[extra]:
                assert f"{package}[{extra}]" in whole[extra]


def test_an_extra_that_is_named_exists() -> None:
    found = extras()
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")]
    files += ROOT.glob("packages/*/src/**/*.py")
    named = {match.groups() for file in files for match in NAMED.finditer(file.read_text(encoding="utf-8"))}
    named = {(package, extra) for package, extra in named if package in found}
    assert ("sandlock", "mcp") in named
    assert [f"{package}[{extra}]" for package, extra in sorted(named) if extra not in found[package]] == []
