"""The manual page has what the tables have, and nothing in a text is taken for a request of roff's."""

from __future__ import annotations

import shutil
import subprocess

import gen_manpage
import pytest

from sandlock_cli.options import VERBS, run_options


def test_every_verb_and_option_is_in_the_page() -> None:
    page = gen_manpage.render()
    for verb in VERBS:
        assert f".SH SANDLOCK {verb.upper()}\n" in page
    for option in run_options():
        for flag in option.flags:
            assert flag.replace("-", "\\-") in page


def test_no_line_of_text_is_a_request() -> None:
    known = (".SH", ".SS", ".TP", ".B ", ".BR", ".PP", ".br", ".nf", ".fi", ".TH", '.\\"')
    for line in gen_manpage.render().splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or line.startswith(known), line


def test_the_page_that_is_shipped_is_this_one() -> None:
    assert gen_manpage.main(["--check"]) == 0


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff to read the page")
def test_groff_finds_no_fault() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-Tutf8", str(gen_manpage.TARGET)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
