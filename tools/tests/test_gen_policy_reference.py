"""The reference of policy fields is what the table says, and the check notices when it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gen_policy_reference

from sandlock_policy.fields import FIELDS, KINDS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_field_and_kind_is_on_the_page() -> None:
    page = gen_policy_reference.render()
    assert set(gen_policy_reference.GRAMMAR) == set(KINDS)
    for field in FIELDS:
        assert f"| `{field.name}` |" in page
    for kind in KINDS:
        assert f"\n### {kind}\n" in page


def test_the_page_that_is_committed_is_current() -> None:
    assert gen_policy_reference.main(["--check"]) == 0


def test_the_check_notices_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(gen_policy_reference, "TARGET", page)
    monkeypatch.setattr(gen_policy_reference, "ROOT", tmp_path)
    assert gen_policy_reference.main(["--check"]) == 1
    assert gen_policy_reference.main([]) == 0
    assert gen_policy_reference.main(["--check"]) == 0
    page.write_text(page.read_text() + "x")
    assert gen_policy_reference.main(["--check"]) == 1
