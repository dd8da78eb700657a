"""tools/build_site.py finds what a built site lacks, and what it loads from elsewhere."""

from __future__ import annotations

from pathlib import Path

import build_site
import pytest


def site(folder: Path, **pages: str) -> list[str]:
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(f"<!DOCTYPE html><html><body>{text}</body></html>")
    return build_site.check(folder)


def test_a_sound_site_has_no_fault(tmp_path: Path) -> None:
    (tmp_path / "own.css").write_text("")
    one = '<link rel="stylesheet" href="own.css?v=1"><a href="two.html#there">x</a><a href="#here">y</a><p id="here">'
    two = '<h1 id="there"></h1><a href="one.html">back</a><a href="https://example.org/">away</a><a href="#">top</a>'
    assert site(tmp_path, one=one, two=two) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<a href="none.html">x</a>', "the link to none.html leads nowhere"),
        ('<img src="none.svg">', "the link to none.svg leads nowhere"),
        ('<a href="#none">x</a>', "the link to #none names an anchor that is not there"),
        ('<a href="page.html#no%20ne">x</a>', "the link to page.html#no%20ne names an anchor that is not there"),
        ('<script src="https://cdn.example/x.js"></script>', "https://cdn.example/x.js is loaded from elsewhere"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "//cdn.example/x.css is loaded from elsewhere"),
    ],
)
def test_a_fault_is_named_with_its_page(tmp_path: Path, text: str, fault: str) -> None:
    assert site(tmp_path, page=text) == [f"page.html: {fault}"]
