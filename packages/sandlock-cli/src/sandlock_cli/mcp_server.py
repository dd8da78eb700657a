"""The Model Context Protocol as far as a server with tools needs it: JSON-RPC 2.0, one message in a line.

Written here because this process has all that its user may do: the protocol is 150 lines, its package brings a web
server, an HTTP client and a validator along. Versions differ in nothing that is used here.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any

from sandlock_cli.mcp_tools import ArgumentError
from sandlock_cli.version import versions

if TYPE_CHECKING:
    from sandlock_cli.mcp_tools import Call, Tools

__all__ = ["VERSIONS", "Server"]

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Of the protocol, the newest first."""

_LONGEST = 4 << 20  # bytes of a message
_AT_ONCE = 4  # calls; more of them wait
_WAITING = 64  # calls that may wait; more of them are refused

# JSON-RPC 2.0, 5.1
_NO_JSON, _NO_REQUEST, _NO_METHOD, _BAD_PARAMETERS, _INTERNAL = -32700, -32600, -32601, -32602, -32603


class _RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Server:
    """Answers the messages of one client.

    Arguments:
        tools: what can be called.
        sink: where answers go.

    """

    def __init__(self, tools: Tools, sink: IO[bytes]) -> None:
        self._tools = tools
        self._sink = sink
        self._writing = threading.Lock()
        self._pending: set[object] = set()
        self._cancelled: set[object] = set()
        self._lock = threading.Lock()

    def serve(self, source: IO[bytes]) -> None:
        """Read and answer until `source` ends."""
        pool = ThreadPoolExecutor(_AT_ONCE, "sandlock-mcp")
        try:
            while line := source.readline(_LONGEST + 1):
                if len(line) > _LONGEST:
                    while line and not line.endswith(b"\n"):
                        line = source.readline(_LONGEST)
                    self._answer(None, error=_RefusalError(_NO_REQUEST, f"a message is longer than {_LONGEST} bytes"))
                elif line.strip():
                    self._take(line, pool)
        finally:
            self._tools.__exit__(None, None, None)
            pool.shutdown(wait=True, cancel_futures=True)

    def _take(self, line: bytes, pool: ThreadPoolExecutor) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._answer(None, error=_RefusalError(_NO_JSON, "a line is one message in JSON"))
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self._answer(None, error=_RefusalError(_NO_REQUEST, "a message is an object of JSON-RPC 2.0"))
            return
        method, key, parameters = message.get("method"), message.get("id"), message.get("params", {})
        if not isinstance(method, str):
            return  # an answer; nothing was asked
        if "id" not in message:
            if method == "notifications/cancelled" and isinstance(parameters, dict):
                self._cancel(parameters.get("requestId"))
            return
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            self._answer(None, error=_RefusalError(_NO_REQUEST, "an id is a string or an integer"))
            return
        try:
            if not isinstance(parameters, dict):
                raise _RefusalError(_BAD_PARAMETERS, "params is no object")  # noqa: TRY301  # answered as the others are
            if method == "tools/call":
                self._start(key, parameters, pool)
                return
            result = self._result(method, parameters)
        except _RefusalError as refusal:
            self._answer(key, error=refusal)
            return
        self._answer(key, result)

    def _result(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if method == "initialize":
            wanted = parameters.get("protocolVersion")
            return {
                "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
                "capabilities": {"tools": {"listChanged": False}},
                "serverInfo": {"name": "sandlock", "version": versions()["sandlock-cli"]},
            }
        if method == "ping":
            return {}
        if method == "tools/list":
            return {"tools": self._tools.descriptions()}
        raise _RefusalError(_NO_METHOD, f"there is no method {method[:100]!r}")

    def _start(self, key: object, parameters: dict[str, Any], pool: ThreadPoolExecutor) -> None:
        """Let a thread make a call."""
        name, arguments = parameters.get("name"), parameters.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise _RefusalError(_BAD_PARAMETERS, "a call has a name and an object of arguments")
        with self._lock:
            if key in self._pending:
                raise _RefusalError(_NO_REQUEST, f"the id {key!r} is in use")
            if len(self._pending) >= _AT_ONCE + _WAITING:
                raise _RefusalError(_INTERNAL, f"{len(self._pending)} calls wait already")
        try:
            # Now, and not when its turn comes: a message that is refused is not kept, whatever it grew to.
            asked = self._tools.prepare(name, arguments)
        except ArgumentError as fault:
            raise _RefusalError(_BAD_PARAMETERS, str(fault)) from fault
        with self._lock:
            self._pending.add(key)
        pool.submit(self._call, key, asked)

    def _call(self, key: object, asked: Call) -> None:
        result, error = None, None
        try:
            result = self._tools.call(key, asked, lambda: key in self._cancelled)
        except ArgumentError as fault:
            error = _RefusalError(_BAD_PARAMETERS, str(fault))
        except Exception as fault:  # noqa: BLE001 - the client is told, and the next call is served
            error = _RefusalError(_INTERNAL, f"{type(fault).__name__}: {fault}")
        with self._lock:
            self._pending.discard(key)
            cancelled = key in self._cancelled
            self._cancelled.discard(key)
        if not cancelled:  # the protocol: whoever cancelled does not want the answer
            self._answer(key, result, error)

    def _cancel(self, key: object) -> None:
        if not isinstance(key, (str, int)):
            return
        with self._lock:
            if key not in self._pending:
                return
            self._cancelled.add(key)
        self._tools.cancel(key)

    def _answer(self, key: object, result: dict[str, Any] | None = None, error: _RefusalError | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": key}
        if error is not None:
            message["error"] = {"code": error.code, "message": str(error)}
        else:
            message["result"] = result
        data = json.dumps(message).encode("ascii") + b"\n"
        with self._writing:
            try:
                self._sink.write(data)
                self._sink.flush()
            except OSError:  # the client has gone; the end of its messages follows
                return
