"""Generate docs/reference/python-api.md, the public names of `sandlock`, from their docstrings.

The sources are read, not imported, so that the page does not depend on what is installed.
"""

from __future__ import annotations

import ast
import inspect
import sys
from typing import TYPE_CHECKING

from generated import write_or_check
from workspace import ROOT

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ["main", "render"]

TARGET = ROOT / "docs" / "reference" / "python-api.md"
FACE = ROOT / "packages" / "sandlock" / "src" / "sandlock" / "__init__.py"

_HEAD = """<!-- Written by tools/gen_api_reference.py from the docstrings; do not edit. -->

# The Python library, name by name

Every name of `import sandlock`. [The guide](../guides/python-api.md) shows how they are used. The fields
of `Policy`, which `Sandbox` takes too, are in [policy fields](policy-fields.md).

"""
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.ClassDef | _Function


def render() -> str:
    """Return the page."""
    places = _places()
    parts = [_HEAD, " · ".join(f"[`{name}`](#{name.lower()})" for name in sorted(places, key=str.lower)), "\n"]
    for name in sorted(places, key=str.lower):
        module, original = places[name]
        parts.append(f"\n## {name}\n\n*from `{module}`*\n")
        found = _find(module, original)
        parts.append(_describe(*found, name, places) if found is not None else _value(module, original))
    return "".join(parts)


def _places() -> dict[str, tuple[str, str]]:
    """Return module and original name of each public name."""
    for statement in ast.parse(FACE.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_SOURCES":
            sources: dict[str, str] = ast.literal_eval(statement.value)
            return {
                word.partition("=")[0]: (module, word.rpartition("=")[2])
                for module, words in sources.items()
                for word in words.split()
            }
    raise SystemExit(f"{FACE} has no _SOURCES")


def _tree(module: str) -> ast.Module:
    package, _, rest = module.partition(".")
    base = ROOT / "packages" / package.replace("_", "-") / "src" / package / rest.replace(".", "/")
    path = next(path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
    return ast.parse(path.read_text(encoding="utf-8"))


def _find(module: str, name: str) -> tuple[_Documented, str] | None:
    """Return the definition of `name` and its module, through the imports that re-export it."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, _Documented) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom) and node.module and node.module != module:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.startswith("sandlock"):
                    return _find(node.module, alias.name)
    return None


def _value(module: str, name: str) -> str:
    for node in _tree(module).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name and node.value is not None:
                return f"\n`{name} = {ast.unparse(node.value)}`\n"
    return ""


def _describe(node: _Documented, module: str, name: str, public: Container[str]) -> str:
    if not isinstance(node, ast.ClassDef):
        return f"\n```python\n{_signature(node, name)}\n```\n{_text(node)}"
    methods, hidden = _methods(node, module, public)
    bases = ", ".join(base for base in map(ast.unparse, node.bases) if base not in hidden)
    made = next((one for one in methods if one.name == "__init__"), None)
    parts = [f"\n```python\nclass {name}({bases})\n" if bases else f"\n```python\nclass {name}\n"]
    if made is not None and not name.endswith("Error"):
        parts.append(f"{_signature(made, name, method=True)}\n")
    parts.append(f"```\n{_text(node)}")
    for method in methods:
        if method.name.startswith("_") or not ast.get_docstring(method):
            continue
        kinds = [ast.unparse(one) for one in method.decorator_list]
        is_static = "staticmethod" in kinds
        shown = method.name if "property" in kinds else _signature(method, method.name, method=not is_static)
        parts.append(f"\n`{' '.join(shown.split())}`\n{_text(method)}")
    return "".join(parts)


def _methods(node: ast.ClassDef, module: str, public: Container[str]) -> tuple[list[_Function], set[str]]:
    """Return the methods, then those of base classes of ours that are not public themselves, and the names of these."""
    methods = [one for one in node.body if isinstance(one, _Function)]
    hidden = set()
    for base in map(ast.unparse, node.bases):
        found = _find(module, base) if base not in public else None
        if found is not None and isinstance(found[0], ast.ClassDef):
            hidden.add(base)
            inherited, _ = _methods(found[0], found[1], public)
            methods += [one for one in inherited if one.name not in {known.name for known in methods}]
    return methods, hidden


def _signature(node: _Function, name: str, *, method: bool = False) -> str:
    arguments = node.args
    if method:
        for group in (arguments.posonlyargs, arguments.args):
            if group and group[0].arg in ("self", "cls"):
                del group[0]
                break
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    prefix = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{prefix}{name}({ast.unparse(arguments)}){returns}"


def _text(node: _Documented) -> str:
    """Return the docstring as Markdown: the sections as lists."""
    lines: list[str] = [""]
    for line in inspect.cleandoc(ast.get_docstring(node) or "").splitlines():
        text = line.strip()
        if line and not line.startswith(" ") and text in ("Arguments:", "Attributes:", "Raises:", "Returns:"):
            lines.append(f"{text}\n")
        elif line.startswith("    ") and not line.startswith("     ") and ": " in text:
            lines.append(f"* {text}")
        else:
            lines.append(f"  {text}" if line.startswith(" ") else text)
    return "\n".join(lines).replace("<", "&lt;").rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write or check the page; return the exit status."""
    return write_or_check(__file__, TARGET, render, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
