"""tools/check_docs.py finds dead links and examples that do not do what the page says."""

from __future__ import annotations

from pathlib import Path

import check_docs
import pytest

FENCE = "```"


def page(root: Path, text: str, name: str = "docs/page.md") -> list[str]:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return check_docs.check(root)


def console(lines: str) -> str:
    return f"{FENCE}console run\n{lines}\n{FENCE}\n"


@pytest.mark.parametrize(
    "text",
    [
        "# A heading\n\n[here](#a-heading) [there](../README.md) [far](https://example.org/nothing)\n",
        "# `sandlock run` -- what it does\n\n[here](#sandlock-run----what-it-does)\n",
        "# Twice\n\n# Twice\n\n[second](#twice-1)\n",
        "[by name][name]\n\n[name]: ../README.md\n",
        "an index: `a[b][c]`\n",
    ],
)
def test_links_that_lead_somewhere_pass(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text("# Top\n")
    assert page(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[there](missing.md)\n", "docs/page.md:1: the link to missing.md leads nowhere"),
        ("x\n\n![picture](missing.png)\n", "docs/page.md:3: the link to missing.png leads nowhere"),
        ("# One\n\n[two](#two)\n", "docs/page.md:3: the link to #two names a heading that is not there"),
        ("[by name][name]\n", "docs/page.md:1: the reference [by name][name] is not defined"),
    ],
)
def test_a_dead_link_is_found(tmp_path: Path, text: str, words: str) -> None:
    assert page(tmp_path, text) == [words]


@pytest.mark.parametrize(
    "lines",
    [
        "$ echo hello\nhello",
        "$ echo one; echo two; echo three\none\n...\nthree",
        "$ echo took 0.123 s\ntook ... s",
        "$ sh -c 'echo no >&2; exit 4'  # exit 4\nno",
        "$ true\n$ echo two commands\ntwo commands",
        "$ echo quiet example >/dev/null",
    ],
)
def test_a_console_example_that_holds_passes(tmp_path: Path, lines: str) -> None:
    assert page(tmp_path, console(lines)) == []


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("$ echo hello\nbye", "printed\nhello\ninstead of\nbye"),
        ("$ false", "`false` exited with 1 instead of 0"),
        ("$ true  # exit 4", "`true` exited with 0 instead of 4"),
        ("$ echo one; echo two\none", "printed\none\ntwo\ninstead of\none"),
    ],
)
def test_a_console_example_that_does_not_hold_is_found(tmp_path: Path, lines: str, words: str) -> None:
    (fault,) = page(tmp_path, console(lines))
    assert words in fault


def test_python_examples_run_with_this_interpreter(tmp_path: Path) -> None:
    assert page(tmp_path, f"{FENCE}python run\nimport sys\nassert 'it' + \"'s\" == \"it's\"\n{FENCE}\n") == []
    (fault,) = page(tmp_path, f"{FENCE}python run\nraise SystemExit(3)\n{FENCE}\n")
    assert "exited with 3" in fault


def test_an_example_that_is_not_marked_is_not_run(tmp_path: Path) -> None:
    assert page(tmp_path, f"{FENCE}python\nraise SystemExit(3)\n{FENCE}\n") == []


def test_an_example_in_another_language_cannot_be_run(tmp_path: Path) -> None:
    (fault,) = page(tmp_path, f"{FENCE}toml run\na = 1\n{FENCE}\n")
    assert "an example in toml cannot be run" in fault
