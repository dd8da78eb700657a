"""What every generator of one file does with what it has rendered: write it, or tell that the file differs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from workspace import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["write_or_check"]


def write_or_check(
    generator: str, target: Path, render: Callable[[], str], purpose: str | None, arguments: list[str] | None
) -> int:
    """Write `target`, or with `--check` only compare it; return the exit status, 1 where it differs.

    Arguments:
        generator: the file of the generator, which is named where the other one differs.
        target: the generated file.
        render: makes its text.
        purpose: the generator's docstring, for `--help`.
        arguments: the command line's; sys.argv's when None.

    """
    parser = argparse.ArgumentParser(description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file differs")
    check: bool = parser.parse_args(arguments).check
    text = render()
    if not check:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    shown = target.relative_to(ROOT) if target.is_relative_to(ROOT) else target
    print(f"{shown} is not what it should be: run python tools/{Path(generator).name}", file=sys.stderr)
    return 1
