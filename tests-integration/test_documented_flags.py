"""Every option that a page tells exists: ours always, those of the tools that people come from where these are."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sandlock_cli.options import parse, table
from sandlock_cli.verbs import USAGES, options_of

ROOT = Path(__file__).resolve().parent.parent
COMING = ROOT / "docs/howto/come-from-bubblewrap-or-firejail.md"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("packages/*/README.md"))]
NEWER = {"--overlay", "--tmp-overlay", "--overlay-tmpfs"}  # than the versions of Debian 12


def rows(title: str) -> list[tuple[list[str], list[str]]]:
    """Return what stands for what below a heading: the code in the first and in the second column of each row."""
    section = COMING.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [
        line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `-") or "| `fire" in line
    ]
    return [(re.findall(r"`([^`]+)`", theirs), re.findall(r"`([^`]+)`", ours)) for theirs, ours in lines]


def shown_commands() -> list[tuple[str, str]]:
    """Return each command line of ours in a block or between backquotes, with the page that shows it."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = re.findall(r"`(sandlock [^`\n]+)`", text) + re.findall(r"(?m)^\s*\$ .*?(sandlock .+)$", text)
        found += [(str(page.relative_to(ROOT)), line) for line in shown]
    return found


@pytest.mark.parametrize("title", ["bubblewrap", "firejail"])
def test_what_stands_for_their_options_is_understood(title: str) -> None:
    found, flags = rows(title), table(options_of("run"))
    assert len(found) >= 14
    understood = 0
    for _, ours in found:
        for code in ours:
            words = shlex.split(code)
            if words[0] == "sandlock":
                assert words[1] in USAGES
            elif words[0].startswith("-"):
                # A letter stands for what the user puts there; a number has to be one.
                words = [re.sub(r"^N$", "7", word) for word in words]
                assert words[0] in flags, code
                if len(words) > 1 or not flags[words[0]][0].metavar:
                    assert parse([*words, "--", "true"], flags, "run", command=True)[1] == ["true"], code
                understood += 1
    assert understood >= 12


@pytest.mark.parametrize(("title", "tool"), [("bubblewrap", "bwrap"), ("firejail", "firejail")])
def test_their_options_are_theirs(title: str, tool: str) -> None:
    if not (Path("/usr/bin") / tool).exists():
        pytest.skip(f"{tool} is not installed")
    known = subprocess.run([tool, "--help"], capture_output=True, text=True, check=False).stdout
    named = {flag for theirs, _ in rows(title) for code in theirs for flag in re.findall(r"--[a-z.-]+", code)}
    assert len(named) >= 15
    assert {flag for flag in named - NEWER if flag not in known} == set()


def test_every_option_in_a_command_of_ours_exists() -> None:
    seen = 0
    unknown = []
    for page, line in shown_commands():
        # Up to the program, a pipe or a comment: what follows is not ours.
        words = re.split(r" -- | [|;&#] |\s#", line)[0].split()[1:]
        if not words or words[0] not in USAGES:
            continue
        flags = table(options_of(words[0]))
        for word in words[1:]:
            flag = word.partition("=")[0].strip("'\"[]().,")
            if re.fullmatch(r"--[a-z][a-z-]*|-[a-zA-Z]", flag):
                seen += 1
                if flag not in flags:
                    unknown.append(f"{page}: {flag} in {line}")
    assert unknown == []
    assert seen > 80
