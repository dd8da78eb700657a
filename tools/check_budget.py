"""House rules that a parser can check: length of files and functions, nothing unfinished, no foreign privates.

A hand-written module of `packages/*/src` and `tools` stops at 400 lines, a function at 60. Generated files (line 1 says
so) and modules of pure data are exempt from the length. No Python or C file may hold a placeholder or a bare
`type: ignore`, and no package may import a private module of another one.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MODULE_LINES", "Violation", "check", "main"]

MODULE_LINES = 400
FUNCTION_LINES = 60

_MEASURED = (
    "packages/*/src/**/*.py",
    "packages/*/src/**/*.c",
    "packages/*/src/**/*.h",
    "packages/*/*.py",
    "tools/*.py",
)
_READ = (
    *_MEASURED,
    "packages/*/tests/**/*.py",
    "tools/tests/**/*.py",
    "tests-integration/**/*.py",
    "benchmarks/**/*.py",
    "*.py",
)
# Written so that this file does not find itself.
_UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|NotImplemented[E]rror)\b")
_BARE_IGNORE = re.compile(r"#\s*type:\s*ignore(?!\[)")
_DATA = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One broken rule at one line."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        """The form that editors jump to."""
        return f"{self.path}:{self.line}: {self.text}"


def check(root: Path) -> list[Violation]:
    """All violations below `root`, in the order of their files."""
    measured = {path for pattern in _MEASURED for path in root.glob(pattern)}
    found = []
    for path in {path for pattern in _READ for path in root.glob(pattern)}:
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        found += [Violation(name, line, words) for line, words in _in_text(text)]
        tree = ast.parse(text, name) if path.suffix == ".py" else None
        if tree and name.startswith("packages/"):
            found += [Violation(name, line, words) for line, words in _foreign_privates(tree, name.split("/")[1])]
        if path in measured and "generated" not in text.partition("\n")[0].lower():
            found += [Violation(name, line, words) for line, words in _too_long(text, tree)]
    return sorted(found)


def _in_text(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if match := _UNFINISHED.search(line):
            yield number, f"unfinished: {match[1]}"
        if _BARE_IGNORE.search(line):
            yield number, "a bare type: ignore; name the error code, and say why"


def _too_long(text: str, tree: ast.Module | None) -> Iterator[tuple[int, str]]:
    lines = len(text.splitlines())
    if lines > MODULE_LINES and not (tree and _is_data(tree)):
        yield MODULE_LINES + 1, f"the file has {lines} lines; {MODULE_LINES} are the end"
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines; {FUNCTION_LINES} are the end"


def _is_data(tree: ast.Module) -> bool:
    """Whether a module only imports and assigns: no function, class, condition, loop or lambda."""
    statements = [
        node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    only_data = all(isinstance(node, _DATA) or _is_typing_guard(node) for node in statements)
    return only_data and not any(isinstance(node, ast.Lambda) for node in ast.walk(tree))


def _is_typing_guard(node: ast.stmt) -> bool:
    guarded = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return guarded and isinstance(node, ast.If) and all(isinstance(inner, _DATA) for inner in node.body + node.orelse)


def _foreign_privates(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    own = package.replace("-", "_")
    for node in ast.walk(tree):
        for name in _imported(node):
            top, *rest = name.split(".")
            if top.startswith("sandlock") and top != own and any(_is_private(part) for part in rest):
                yield node.lineno if isinstance(node, ast.stmt) else 0, f"{name} is private to {top}"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


def main() -> None:
    """Print the violations of this checkout (or of the folder given) and exit with 1 if there are any."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    violations = check(root)
    for violation in violations:
        print(violation)
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
