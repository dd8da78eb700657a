"""tools/wheelhouse.py: what is installed from the wheelhouse is named with its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import wheelhouse
from workspace import load


def test_links_carry_the_hash_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheelhouse, "WHEELHOUSE", tmp_path)
    package = load()["sandlock-arch"]
    wheel = tmp_path / f"sandlock_arch-{package.version}-py3-none-any.whl"
    wheel.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    assert wheelhouse.links("sandlock-arch") == [f"{wheel.as_uri()}#sha256={digest}"]
