"""`sandlock mcp` and the protocol's own client: what we speak is what others understand. Where that package is."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs("landlock", level=6), pytest.mark.needs("module:mcp")]


def test_the_protocols_own_client_is_served(tmp_path: Path) -> None:
    mcp: Any = import_module("mcp")
    stdio: Any = import_module("mcp.client.stdio")
    words = ["-m", "sandlock_cli", "mcp", "--preset", "python"]

    async def main() -> tuple[list[str], list[dict[str, Any]]]:
        server = mcp.StdioServerParameters(command=sys.executable, args=words, cwd=str(tmp_path), env=dict(os.environ))
        async with stdio.stdio_client(server) as (source, sink), mcp.ClientSession(source, sink) as session:
            await session.initialize()
            names = [tool.name for tool in (await session.list_tools()).tools]
            calls = (
                ("run_command", {"command": ["echo", "hi"]}),
                ("run_python", {"code": "print(6 * 7)"}),
                ("run_command", {"command": ["cat", "/etc/shadow"]}),
            )
            found = [(await session.call_tool(name, arguments)).structured_content for name, arguments in calls]
            with pytest.raises(Exception, match="a list of strings"):
                await session.call_tool("run_command", {"command": "echo hi"})
            return names, found

    names, (said, counted, refused) = asyncio.run(asyncio.wait_for(main(), 60))
    assert names == ["run_command", "run_python"]
    assert (said["stdout"], said["exit_code"]) == ("hi\n", 0)
    assert counted["stdout"] == "42\n"
    assert refused["stdout"] == ""
    assert "Permission denied" in refused["stderr"]
