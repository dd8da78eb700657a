"""A kernel that is too old for a part that hides nobody is asked again without it, and remembered."""

from __future__ import annotations

from errno import EACCES, EINVAL
from typing import Any

import pytest

from sandlock_runtime import starting
from sandlock_sys.spawn import HOST_CLOCK, SpawnError, SpawnRequest


class Kernel:
    """Stands in for the launch: refuses with `error` whatever lacks HOST_CLOCK."""

    def __init__(self, step: str, errno: int) -> None:
        self.error = SpawnError(step, "clone", errno)
        self.flags: list[int] = []

    def __call__(self, request: SpawnRequest) -> Any:
        self.flags.append(request.flags)
        if not request.flags & HOST_CLOCK:
            raise self.error
        return self


@pytest.fixture
def request_() -> SpawnRequest:
    return SpawnRequest([b"true"], [b"/bin/true"])


def test_a_time_namespace_that_is_refused_is_left_out_from_then_on(
    request_: SpawnRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Kernel("init", EINVAL)
    monkeypatch.setattr(starting, "spawn", old)
    monkeypatch.setattr(starting, "_given_up", 0)
    launched: object = starting.start(request_)
    assert launched is old
    starting.start(SpawnRequest([b"true"], [b"/bin/true"]))
    assert old.flags == [0, HOST_CLOCK, HOST_CLOCK]


@pytest.mark.parametrize(("step", "errno"), [("init", EACCES), ("seccomp", EINVAL)])
def test_another_refusal_is_the_callers_to_hear_of(
    step: str, errno: int, request_: SpawnRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Kernel(step, errno)
    monkeypatch.setattr(starting, "spawn", broken)
    monkeypatch.setattr(starting, "_given_up", 0)
    with pytest.raises(SpawnError):
        starting.start(request_)
    assert broken.flags == [0]
