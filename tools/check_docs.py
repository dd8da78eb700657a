"""Check the Markdown of the project: links lead somewhere, and examples marked `run` do what the page says.

A fenced block whose info string has the word `run` is an example:

* ```python run: the block exits with 0.
* ```console run: every line after `$ ` is a shell command, the lines below it are its output, where a line `...`
  stands for any lines and `...` within a line for any text. A command exits with 0, unless it ends in `# exit N`.

Examples run in an empty folder, with this environment's programs first on PATH.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

__all__ = ["check", "main"]

_PAGES = ("*.md", "docs/**/*.md", "packages/*/*.md", "benchmarks/**/*.md", "tests-integration/**/*.md")
_TIMEOUT_S = 60
_EXIT = re.compile(r"\s+# exit (\d+)$")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a console example, and what the page says it prints; None where the page says nothing."""

    command: str
    output: str | None
    status: int = 0


def check(root: Path) -> list[str]:
    """One sentence for each fault of the pages below `root`."""
    parser = MarkdownIt("commonmark").enable("table")
    pages = {
        page.resolve(): parser.parse(page.read_text(encoding="utf-8")) for pat in _PAGES for page in root.glob(pat)
    }
    anchors = {page: set(_anchors(tokens)) for page, tokens in pages.items()}
    faults = []
    for page, tokens in sorted(pages.items()):
        name = page.relative_to(root.resolve())
        faults += [f"{name}:{line}: {words}" for line, words in _link_faults(page, tokens, anchors)]
        faults += [f"{name}:{line}: {words}" for line, words in _example_faults(tokens)]
    return faults


def _anchors(tokens: list[Token]) -> Iterator[str]:
    """The fragments that a forge makes of headings: lower case, spaces to dashes, punctuation dropped."""
    seen: dict[str, int] = {}
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or () if child.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = seen[slug] = seen.get(slug, -1) + 1
            yield f"{slug}-{count}" if count else slug


def _link_faults(page: Path, tokens: list[Token], anchors: dict[Path, set[str]]) -> Iterator[tuple[int, str]]:
    for line, child in _inline(tokens):
        if child.type == "text" and (match := re.search(r"\[[^\]]+\]\[[^\]]*\]", child.content)):
            yield line, f"the reference {match[0]} is not defined"
        target = str(child.attrGet("href") or child.attrGet("src") or "")
        if not target or re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield line, f"the link to {target} leads nowhere"
        elif fragment and file in anchors and fragment not in anchors[file]:
            yield line, f"the link to {target} names a heading that is not there"


def _inline(tokens: list[Token]) -> Iterator[tuple[int, Token]]:
    for token in tokens:
        if token.type == "inline" and token.map:
            for child in token.children or ():
                yield token.map[0] + 1, child


def _example_faults(tokens: list[Token]) -> Iterator[tuple[int, str]]:
    for token in tokens:
        language, *words = token.info.split() if token.type == "fence" else ("",)
        if "run" not in words or token.map is None:
            continue
        line = token.map[0] + 1
        if language == "console":
            steps = list(_steps(token.content))
        elif language == "python":
            steps = [Step(f"exec {sys.executable} - <<'END-OF-EXAMPLE'\n{token.content}\nEND-OF-EXAMPLE", None)]
        else:
            yield line, f"an example in {language or 'no language'} cannot be run; there are python and console"
            continue
        with tempfile.TemporaryDirectory() as folder:
            for step in steps:
                if fault := _run(step, folder):
                    yield line, fault


def _steps(text: str) -> Iterator[Step]:
    for chunk in re.split(r"(?m)^\$ ", text)[1:]:
        command, _, output = chunk.partition("\n")
        ending = _EXIT.search(command)
        yield Step(_EXIT.sub("", command), output if output.strip() else None, int(ending[1]) if ending else 0)


def _run(step: Step, folder: str) -> str | None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shown = step.command.partition("\n")[0]
    try:
        done = subprocess.run(
            ["sh", "-c", step.command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"`{shown}` did not end within {_TIMEOUT_S} s"
    printed = done.stdout.decode(errors="replace")
    if done.returncode != step.status:
        return f"`{shown}` exited with {done.returncode} instead of {step.status}:\n{printed}"
    if step.output is not None and not _matches(step.output, printed):
        return f"`{shown}` printed\n{printed}instead of\n{step.output}"
    return None


def _matches(page: str, printed: str) -> bool:
    lines = ["(?:.*\n)*?" if line == "..." else _line(line) for line in page.rstrip().splitlines()]
    return re.fullmatch("".join(lines), printed.rstrip() + "\n") is not None


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"\s*\n"


def main() -> None:
    """Print the faults of this checkout (or of the folder given) and exit with 1 if there are any."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    faults = check(root)
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
