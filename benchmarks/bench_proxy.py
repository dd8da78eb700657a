"""The HTTP proxy: requests and bytes per second, straight to a server, through ours and through others from PyPI.

The others are installed into a virtual environment of their own (`--others DIRECTORY` uses or makes it there). All
processes share the machine's cores and take turns round by round, so only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import base64
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from measure import compare, report
from proxy_parts import BIG

OTHERS = ("proxy.py==2.4.10", "mitmproxy==11.0.2")
REQUESTS = 500
HERE = Path(__file__).resolve().parent


class Client:
    """One kept connection, and requests as a client of a proxy or of a server writes them."""

    def __init__(self, port: int, server: int, *, absolute: bool, secret: str = "") -> None:
        """Connect to `port`; `absolute` writes targets as for a proxy, `secret` authorizes with ours."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.base = f"http://127.0.0.1:{server}" if absolute else ""
        lines = f"Host: 127.0.0.1:{server}\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        if secret:
            lines += f"Proxy-Authorization: Basic {base64.b64encode(f'sandlock:{secret}'.encode()).decode()}\r\n"
        self.lines = lines
        self.room = bytearray(1 << 20)

    def request(self, method: str, path: str, body: bytes = b"") -> int:
        """Send one request, and return how many bytes its answer's body has."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {self.base}{path} HTTP/1.1\r\n{self.lines}{length}\r\n".encode()
        self.socket.sendall(head)
        if body:
            self.socket.sendall(body)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.socket.recv(65536)
        answer, _, rest = got.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        total = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        left = total - len(rest)
        while left:
            left -= self.socket.recv_into(self.room)
        return total

    def many(self) -> None:
        """Send small requests, one after the other."""
        for _ in range(REQUESTS):
            self.request("GET", "/small")

    def down(self) -> None:
        """Fetch 16 MiB."""
        assert self.request("GET", "/big") == BIG

    def up(self) -> None:
        """Send 16 MiB."""
        self.request("PUT", "/up", bytes(BIG))


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=null, stderr=null)


def main() -> None:
    """Measure requests, downloads and uploads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--others", type=Path, help="where the virtual environment of the other proxies is or goes")
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    with ExitStack() as stack:
        folder = options.others or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        install(folder)
        server_port = int(start(stack, "server")[0])
        listening, secret, intercepting = start(stack, "proxy", str(server_port))
        ports = start_others(stack, folder)
        straight = Client(server_port, server_port, absolute=False)
        clients = {
            "sandlock-proxy, intercepted": Client(int(intercepting), server_port, absolute=False),
            "sandlock-proxy, listening": Client(int(listening), server_port, absolute=True, secret=secret),
        }
        clients |= {name: Client(port, server_port, absolute=True) for name, port in ports.items()}
        for title, method, rounds in (
            (f"{REQUESTS} small requests, one connection", "many", 12),
            ("16 MiB down", "down", 10),
            ("16 MiB up", "up", 10),
        ):
            cases = {name: (getattr(client, method), None) for name, client in clients.items()}
            report(title, compare(("straight to the server", getattr(straight, method)), cases, rounds=rounds))


def install(folder: Path) -> None:
    """Make the environment of the others, unless it is there."""
    if not (folder / "bin" / "mitmdump").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *OTHERS], check=True)


def start(stack: ExitStack, *arguments: str) -> list[str]:
    """Start a part, ended with `stack`, and return the words of its first line."""
    command = [sys.executable, str(HERE / "proxy_parts.py"), *arguments]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().split()


def start_others(stack: ExitStack, folder: Path) -> dict[str, int]:
    """Start the other proxies on free ports; one process each, as ours is."""
    ports = {name: free_port() for name in OTHERS}
    proxy_py, mitmproxy = (str(port) for port in ports.values())
    commands = (
        [folder / "bin" / "proxy", "--hostname", "127.0.0.1", "--port", proxy_py, "--num-workers", "1",
         "--num-acceptors", "1", "--log-level", "ERROR"],
        [folder / "bin" / "mitmdump", "-q", "--listen-host", "127.0.0.1", "-p", mitmproxy,
         "--set", "stream_large_bodies=1m", "--set", f"confdir={folder / 'conf'}"],
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in commands:
        process = stack.enter_context(
            subprocess.Popen(
                [str(word) for word in command],
                env=environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(os.killpg, process.pid, 15)
    deadline = time.monotonic() + 60
    for port in ports.values():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "a proxy did not start"
                time.sleep(0.2)
    return ports


def free_port() -> int:
    """Return a port that nobody has right now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
