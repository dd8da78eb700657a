"""tools/workspace.py knows who requires whom; tools/stage.py where others may go."""

from __future__ import annotations

from pathlib import Path

import pytest
import workspace
from copies import write_package
from stage import is_reachable


@pytest.fixture
def diamond(tmp_path: Path) -> dict[str, workspace.Package]:
    write_package(tmp_path, "sandlock", "sandlock-left==0.1.0", "sandlock-right==0.1.0")
    write_package(tmp_path, "sandlock-alone")
    write_package(tmp_path, "sandlock-left", "sandlock-low==0.1.0", "cffi>=1.17")
    write_package(tmp_path, "sandlock-low")
    write_package(tmp_path, "sandlock-right", "sandlock-low==0.1.0")
    return workspace.load(tmp_path)


def names(packages: list[workspace.Package]) -> list[str]:
    return [package.name for package in packages]


def test_a_package_comes_after_all_that_it_requires(diamond: dict[str, workspace.Package]) -> None:
    order = list(diamond)
    for package in diamond.values():
        assert all(order.index(pin) < order.index(package.name) for pin in package.pins)


def test_the_closure_holds_what_is_required_and_nothing_beside(diamond: dict[str, workspace.Package]) -> None:
    assert names(workspace.closure(diamond, "sandlock-low")) == ["sandlock-low"]
    assert names(workspace.closure(diamond, "sandlock-left")) == ["sandlock-low", "sandlock-left"]
    assert set(names(workspace.closure(diamond, "sandlock"))) == diamond.keys() - {"sandlock-alone"}


def test_dependents_are_found_through_others_lowest_first(diamond: dict[str, workspace.Package]) -> None:
    assert names(workspace.dependents(diamond, "sandlock-low")) == ["sandlock-left", "sandlock-right", "sandlock"]
    assert names(workspace.dependents(diamond, "sandlock")) == []


def test_pins_and_third_parties_are_told_apart(diamond: dict[str, workspace.Package]) -> None:
    assert diamond["sandlock-left"].pins == {"sandlock-low": "==0.1.0"}
    assert diamond["sandlock-left"].third_party == ("cffi>=1.17",)


def test_a_folder_below_a_closed_one_is_not_reachable(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    inner = closed / "inner"
    inner.mkdir(parents=True)
    closed.chmod(0o700)
    assert not is_reachable(inner)
    assert is_reachable(Path("/usr/bin"))
