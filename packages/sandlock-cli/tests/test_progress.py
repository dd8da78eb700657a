"""Progress is drawn on a terminal, for what takes long, and leaves nothing behind."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from sandlock_cli import progress
from sandlock_cli.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))  # pytest changes the real one between phases
    monkeypatch.setattr(progress, "_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)


def draw(unit: str = "MiB", *, quiet: bool = False) -> bool:
    with Bar(unit, 20, quiet=quiet) as tell:
        if tell is not None:
            tell(1 << 20, 4 << 20)
            tell(3 << 20, 4 << 20)
    return tell is not None


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_shows_how_far_it_is_and_is_clean_afterwards(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, rich: bool
) -> None:
    if rich:
        pytest.importorskip("rich")
    else:
        without_rich(monkeypatch)
    assert draw()
    shown = terminal.getvalue()
    assert "1 of 4 MiB" in shown
    assert "3 of 4 MiB" in shown
    assert shown.rstrip("\r").endswith("\x1b[2K" if rich else "\x1b[K")
    if rich:
        assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is there again


@pytest.mark.parametrize("rich", [True, False])
def test_an_error_leaves_a_clean_line_too(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, rich: bool) -> None:
    if rich:
        pytest.importorskip("rich")
    else:
        without_rich(monkeypatch)
    with pytest.raises(OSError, match="disk"), Bar("steps") as tell:
        assert tell is not None
        tell(1, 2)
        raise OSError("disk full")
    assert terminal.getvalue().rstrip("\r").endswith("\x1b[2K" if rich else "\x1b[K")


def test_no_colour_where_none_is_wanted(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    draw()
    assert "\x1b[38;" in terminal.getvalue() or "\x1b[3" in terminal.getvalue()
    terminal.truncate(0)
    monkeypatch.setenv("NO_COLOR", "1")
    draw()
    assert "\x1b[3" not in terminal.getvalue()


def test_nothing_is_drawn_for_a_pipe_when_asked_not_to_or_for_what_is_soon_over(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not draw(quiet=True)
    monkeypatch.setattr(progress, "_AFTER_S", 60.0)
    assert draw()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=io.StringIO()))
    assert not draw()
    assert terminal.getvalue() == ""
