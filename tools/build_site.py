"""Build the documentation as a site of plain files, and check what was built.

python tools/build_site.py [FOLDER]      into FOLDER (build/site)

A warning of Sphinx is an error. What was built is read again: every link and picture inside leads somewhere, and no
page loads anything from elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workspace import ROOT

__all__ = ["build", "check", "main"]

_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class _Page(HTMLParser):
    """The anchors of one page, where it leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {"", "top"}  # the top of a page: every browser knows these
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        found = dict(attrs)
        self.anchors.update(value for value in (found.get("id"), found.get("name")) if value)
        if tag == "a" and found.get("href"):
            self.leads.append(str(found["href"]))
        if tag in _LOADED and found.get(_LOADED[tag]):
            self.loads.append(str(found[_LOADED[tag]]))


def build(folder: Path) -> None:
    """Build the site anew into `folder`; SystemExit where Sphinx has anything to say against it."""
    options = ["-q", "-E", "-W", "--keep-going", "-j", "auto", "-c", str(ROOT / "docs")]
    work = ["-d", str(folder.parent / f"{folder.name}.doctrees")]
    done = subprocess.run([sys.executable, "-m", "sphinx", *options, *work, str(ROOT), str(folder)], check=False)
    if done.returncode:
        sys.exit("the site was not built: what is written above is to be mended")


def check(folder: Path) -> list[str]:
    """One sentence for each link of the site in `folder` that leads nowhere, and for what is loaded from elsewhere."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        faults += [f"{name}: {target} is loaded from elsewhere" for target in page.loads if _is_elsewhere(target)]
        for target in dict.fromkeys(page.leads + page.loads):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.is_file():
                faults.append(f"{name}: the link to {target} leads nowhere")
            elif there in pages and unquote(parts.fragment) not in pages[there].anchors:
                faults.append(f"{name}: the link to {target} names an anchor that is not there")
    return faults


def _is_elsewhere(target: str) -> bool:
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme not in {"", "data"}


def main() -> None:
    """Build the site and exit with 1 where it has a fault."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"
    build(folder)
    faults = check(folder)
    print("\n".join(faults) or f"the site is in {folder}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
