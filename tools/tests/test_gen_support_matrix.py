"""The support matrix says what the records say, and no more."""

from __future__ import annotations

from typing import Any

import gen_support_matrix
import pytest


def record(label: str, state: str, how: str) -> dict[str, Any]:
    trial = {"name": "act", "what": "Something", "namespaces": "auto", "state": state, "how": how}
    return {
        "label": label, "kernel": "6", "machine": "x", "landlock_abi": 2, "date": "today", "refused": "",
        "protections": [{"name": "fs_access", "state": "active", "layer": "landlock", "detail": ""}],
        "features": [{"name": "Landlock", "state": "missing", "why": ""}], "trials": [trial],
    }  # fmt: skip


def row_of(text: str, start: str) -> list[str]:
    return [
        cell.strip() for cell in next(line for line in text.splitlines() if line.startswith(start)).split("|")[1:-1]
    ]


def test_each_record_is_a_column_and_an_attack_that_won_is_seen() -> None:
    labels = list(gen_support_matrix.MACHINES)[:3]
    text = gen_support_matrix.render([
        record(labels[0], "held", "landlock"),
        record(labels[1], "open", "degraded"),
        record(labels[2], "works", "layer"),
    ])  # fmt: skip
    assert row_of(text, "| Something") == ["Something", "held: landlock", "**open**: degraded", "works"]
    assert row_of(text, "| Landlock") == ["Landlock", *["missing"] * 3]


def test_a_refusal_is_told_in_words_once() -> None:
    labels = list(gen_support_matrix.MACHINES)[:2]
    words = ("E: process 12 of 127.0.0.1:99", "E: process 7 of 127.0.0.1:80")
    text = gen_support_matrix.render([record(label, "refused", how) for label, how in zip(labels, words, strict=True)])
    assert row_of(text, "| Something") == ["Something", "refused (1)", "refused (1)"]
    assert "1. E: process N of 127.0.0.1:N" in text


def test_a_record_that_nobody_explains_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toaster.json").write_text("{}")
    monkeypatch.setattr(gen_support_matrix, "RECORDS", tmp_path)
    with pytest.raises(SystemExit, match="toaster"):
        gen_support_matrix.load()
