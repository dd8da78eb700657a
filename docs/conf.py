"""The site: furo over the Markdown of this checkout, as it is read on a forge too. Built by tools/build_site.py."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

project = "sandlock"
release = tomllib.loads((ROOT / "packages/sandlock/pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "packages/*/README.md"]
exclude_patterns = ["build", ".*"]
myst_heading_anchors = 4  # a link to a heading that is not there is a warning, and a warning an error
nitpicky = True

smartquotes = False  # they make a dash of the two in `--option`, wherever it is not marked as code
html_theme = "furo"
html_title = f"sandlock {release}"
html_extra_path = ["site"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

_PAGE = re.compile(r"\]\(([^)#:]+\.md)\)")


def setup(app) -> dict[str, bool]:  # noqa: ANN001  # Sphinx's type; this file is read by nothing else
    """Make the lists of docs/index.md the site's navigation, so that a page which is not listed there is an error."""
    app.connect("source-read", _add_navigation)
    return {"parallel_read_safe": True}


def _add_navigation(_app, name: str, source: list[str]) -> None:  # noqa: ANN001
    if name != root_doc:
        return
    trees, listed = [], set()
    for section in re.split(r"(?m)^## ", source[0])[1:]:
        title, _, text = section.partition("\n")
        pages = [page for page in dict.fromkeys(_PAGE.findall(text)) if page not in listed]
        listed.update(pages)
        trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"]))
    source[0] += "\n\n" + "\n\n".join(trees) + "\n"
