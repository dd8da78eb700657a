"""Where the proxy of a sandbox goes for a name, and for how long."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sandlock_policy import Policy
from sandlock_runtime import web

OLD, NEW = "93.184.215.10", "93.184.215.11"


@pytest.mark.parametrize("refresh", [False, True])
def test_a_name_is_looked_up_again_only_where_that_was_asked_for(
    refresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found then may be connected to, unless it is inside; what it led to before may not."""
    found = [NEW, "10.0.0.5"]

    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in found]

    async def ask() -> tuple[str, ...]:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        return await made._resolve("a.example")

    monkeypatch.setattr(web, "REFRESH_S", -1)  # as if all of it were a minute ago
    monkeypatch.setattr(web, "LAUNCH_TTL_S", -1)
    policy = Policy(net_allow=["a.example:80"], http_allow=["GET a.example/*"], net_refresh=refresh)
    made = web.Web(policy, {}, {"a.example": (OLD,)})
    try:
        monkeypatch.setattr(web, "LAUNCH_TTL_S", 60)
        assert asyncio.run(ask()) == ((NEW,) if refresh else (OLD,))
        allowed = [made._rules.verdict("tcp", one, 80).allowed for one in (OLD, NEW, "10.0.0.5")]
        assert allowed == ([False, True, False] if refresh else [True, False, False])
        found.clear()
        assert asyncio.run(ask()) == (() if refresh else (OLD,))
    finally:
        made.close()
