"""The page of the Python library has every public name, and the check notices when it is not current."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gen_api_reference as generator

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_public_name_is_described() -> None:
    page = generator.render()
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    assert {"Sandbox", "Result", "SandboxExecutor", "run_many", "PIPE", "inputs"} <= set(sections)
    assert "`run(cmd: Command, timeout: float | None=None" in sections["Sandbox"]
    assert "`fork(n: int" in sections["Sandbox"], "what a base class that is not public gives"
    assert "self" not in sections["run_many"]
    for name, text in sections.items():
        assert len(text) > 50, f"{name} has nothing to say"


def test_a_page_that_is_not_current_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = generator.TARGET.read_text(encoding="utf-8")
    target = tmp_path / "page.md"
    target.write_text(page + "more\n", encoding="utf-8")
    monkeypatch.setattr(generator, "TARGET", target)
    monkeypatch.setattr(generator, "render", lambda: page)
    assert generator.main(["--check"]) == 1
    assert "gen_api_reference.py" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
