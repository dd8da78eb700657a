"""The page of system calls has every call and every handler, and the check notices when it is not current."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gen_syscalls_reference as generator
import pytest

from sandlock_arch import get, names
from sandlock_notif import HandlerTable, Trap
from sandlock_policy.seccomp.default import default_spec
from sandlock_policy.seccomp.opcodes import RET_ALLOW
from sandlock_policy.seccomp.options import FilterOptions

if TYPE_CHECKING:
    from pathlib import Path


def test_every_call_of_every_architecture_is_told_once() -> None:
    page = generator.render()
    handled, _, quiet = page.partition("## Allowed as they are")
    rows = handled.partition("## Handled calls")[2].partition("## Sockets")[0].splitlines()
    cells = {line.split("`")[1] for line in rows if line.startswith("| `")}
    for name in names():
        for call in get(name).syscalls:
            assert (call in cells) != (f"`{call}`" in quiet), call


def test_what_the_filter_denies_has_a_row() -> None:
    told = {row.syscall for row in generator.rows() if row.cost == "filter"}
    denied = {rule.syscall for rule in default_spec(FilterOptions()).rules if rule.action != RET_ALLOW}
    assert denied <= told
    assert "getpid" not in told


def test_traps_carry_condition_reason_and_cost() -> None:
    rows = [row for row in generator.rows() if (row.syscall, row.by) == ("sched_getaffinity", "processors")]
    assert [(row.when, row.answer, row.cost) for row in rows] == [("", "asked", "memory")]
    (large,) = [row for row in generator.rows() if (row.syscall, row.by) == ("fallocate", "memory")]
    assert "arg3:64" in large.when


def test_every_domain_is_of_a_table_that_is_there() -> None:
    assert [table.__name__ for table in generator.tables()] == list(generator.DOMAINS)


def test_a_table_that_nobody_described_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class UnheardTable(HandlerTable):
        name = "unheard"

        def traps(self) -> Sequence[Trap]:
            return ()

    monkeypatch.setattr(UnheardTable, "__module__", "sandlock_notif.handlers.unheard")
    with pytest.raises(LookupError, match="UnheardTable"):
        generator.tables()


def test_the_page_that_is_committed_is_current() -> None:
    assert generator.main(["--check"]) == 0


def test_the_check_notices_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(generator, "TARGET", page)
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    page.write_text(page.read_text() + "x")
    assert generator.main(["--check"]) == 1
