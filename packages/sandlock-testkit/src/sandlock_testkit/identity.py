"""The fixture `as_user`: who runs these tests, for the few claims that differ between root and a user."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

import pytest

__all__ = ["Identity", "as_user"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that runs the tests; `is_root` is about the effective uid, in whatever user namespace this is."""

    uid: int
    gid: int
    name: str
    home: str

    @property
    def is_root(self) -> bool:
        """Whether the kernel gives this user root's powers, as far as the uid says."""
        return self.uid == 0


@pytest.fixture(scope="session")
def as_user() -> Identity:
    """Who runs the tests."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a uid without an entry: containers do that
        return Identity(uid, os.getegid(), str(uid), os.environ.get("HOME", "/"))
    return Identity(uid, os.getegid(), entry.pw_name, entry.pw_dir)
