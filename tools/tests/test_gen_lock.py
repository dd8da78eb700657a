"""tools/gen_lock.py: what anything requires stands in the constraints, in a version that is allowed, with hashes."""

from __future__ import annotations

from pathlib import Path

import gen_lock
import pytest

LINES = """h11==0.16.0 \\
    --hash=sha256:00
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:00
numpy==2.5.5
"""


def test_this_checkout_is_locked_and_every_version_has_a_hash() -> None:
    text = gen_lock.CONSTRAINTS.read_text()
    assert gen_lock.check(gen_lock.requirements(), text) == []
    entries = text.replace("\\\n", " ").splitlines()[1:]
    assert len(entries) > 50
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize(
    "word", ["h11", "H11>=0.16", "h11==0.16.0", "numpy>=2.5", "numpy<2.5", "h11[x]>=0.10; os_name"]
)
def test_what_a_line_answers_is_no_fault(word: str) -> None:
    assert gen_lock.check([word.replace("; os_name", "; os_name == 'posix'")], LINES) == []


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("h12", "h12 is not locked"),
        ("h11>=0.17", "h11>=0.17 is not met by 0.16.0, which is locked"),
        ("numpy>=3", "numpy>=3 is not met by 2.4.6, 2.5.5, which is locked"),
    ],
)
def test_what_no_line_answers_is_named(word: str, fault: str) -> None:
    assert gen_lock.check([word], LINES) == [fault]


def test_builds_extras_and_groups_are_requirements_and_packages_of_the_checkout_are_not(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[dependency-groups]\na = ["tool==1", {include-group = "b"}]\nb = ["other"]\n'
    )
    for name, more in (("one", ""), ("two", '"one==0.1.0", "dep>=2"')):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(
            f'[build-system]\nrequires = ["builder"]\n[project]\nname = "{name}"\ndependencies = [{more}]\n'
            '[project.optional-dependencies]\nx = ["extra"]\n'
        )
    assert gen_lock.requirements(tmp_path) == ["builder", "dep>=2", "extra", "other", "tool==1"]
