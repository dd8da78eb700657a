"""The reference of the command is what the tables say, and the check notices when it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gen_cli_reference

from sandlock_cli.options import VERBS, run_options

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_verb_and_every_spelling_is_on_the_page() -> None:
    page = gen_cli_reference.render()
    for verb in VERBS:
        assert f"\n## sandlock {verb}\n" in page
    for option in run_options():
        for flag in option.flags:
            assert f"`{flag}`" in page


def test_the_page_that_is_committed_is_current() -> None:
    assert gen_cli_reference.main(["--check"]) == 0


def test_the_check_notices_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(gen_cli_reference, "TARGET", page)
    monkeypatch.setattr(gen_cli_reference, "ROOT", tmp_path)
    assert gen_cli_reference.main(["--check"]) == 1
    assert gen_cli_reference.main([]) == 0
    assert gen_cli_reference.main(["--check"]) == 0
    page.write_text(page.read_text() + "x")
    assert gen_cli_reference.main(["--check"]) == 1
