"""The process that renames does, and is gone afterwards."""

from __future__ import annotations

from pathlib import Path

from sandlock_testkit.renaming import renaming


def test_a_file_has_both_names_in_turns_until_the_end(tmp_path: Path) -> None:
    seen: set[str] = set()
    with renaming(tmp_path / "file"):
        while len(seen) < 2:
            seen.update(path.name for path in tmp_path.iterdir())
    left = list(tmp_path.iterdir())
    assert seen == {"file", "file-"}
    assert len(left) == 1
    assert left == list(tmp_path.iterdir())
