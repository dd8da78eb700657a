"""Ports of one's own: real servers inside, reached from outside at the port that `ports()` and `ps` tell."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_lab import Command

from sandlock import Sandbox

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/etc/hosts", "-/etc/nsswitch.conf", "-/etc/passwd"]
SYSTEM += ["-/etc/group", "/dev/null", "-/etc/localtime", "/dev/urandom"]
REDIS = ["redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port"]
LISTEN = "import socket; s = socket.create_server(('127.0.0.1', {port})); s.accept()[0].sendall(b'hi'); s.accept()"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that the host listens on."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


def until(ask: Callable[[], Any], wait_s: float = 30) -> Any:
    """Return what `ask` says as soon as it says something."""
    deadline = time.monotonic() + wait_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return answer


def _moved(box: Sandbox, port: int) -> int | None:
    return box.ports().get(port)


def _answers(port: int) -> bool:
    return ask_redis(port, "ping") == "PONG"


def ask_redis(port: int, *words: str) -> str:
    return subprocess.run(
        ["redis-cli", "-p", str(port), *words], capture_output=True, text=True, check=False, timeout=30
    ).stdout.strip()


@pytest.mark.needs("command:redis-server")
@pytest.mark.needs("command:redis-cli")
def test_two_redis_servers_have_one_port_and_their_own_data(taken: int) -> None:
    with ExitStack() as stack:
        reals = []
        for _ in range(2):
            box = stack.enter_context(Sandbox(fs_readable=SYSTEM, net_allow_bind=[taken], port_remap=True))
            process = box.popen([*REDIS, str(taken)], stdout=-3, stderr=-3)
            real = until(partial(_moved, box, taken))
            assert process.ports() == {taken: real}
            until(partial(_answers, real))
            assert ask_redis(real, "config", "get", "port").split() == ["port", str(taken)]
            reals.append(real)
        assert len({taken, *reals}) == 3
        assert [ask_redis(real, "set", "who", str(real)) for real in reals] == ["OK", "OK"]
        assert [ask_redis(real, "get", "who") for real in reals] == [str(real) for real in reals]
    assert box.ports() == process.ports() == {}


@pytest.mark.needs("command:nginx")
@pytest.mark.needs("command:curl")
def test_nginx_serves_from_inside_on_the_port_that_is_told(taken: int, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("from inside")
    (tmp_path / "conf").write_text(f"""
user root root; daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;
events {{ worker_connections 16; }}
http {{
    access_log off; client_body_temp_path {tmp_path}/1; proxy_temp_path {tmp_path}/2; fastcgi_temp_path {tmp_path}/3;
    uwsgi_temp_path {tmp_path}/4; scgi_temp_path {tmp_path}/5; server {{ listen {taken}; root {tmp_path}; }}
}}
""")
    box = Sandbox(fs_readable=SYSTEM, fs_writable=[str(tmp_path)], net_allow_bind=[taken], port_remap=True)
    with box, box.popen(["/usr/sbin/nginx", "-e", "stderr", "-c", str(tmp_path / "conf")], stderr=-1) as process:
        real = until(lambda: process.poll() is None and box.ports().get(taken))
        assert real != taken
        page = ["curl", "-sS", "--retry", "20", "--retry-connrefused", "--retry-delay", "1"]
        done = subprocess.run([*page, f"http://127.0.0.1:{real}/page"], capture_output=True, text=True, check=False)
        assert done.stdout == "from inside", done.stderr


def test_a_port_of_its_own_is_told_too_and_to_asyncio(taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]

    async def main() -> None:
        box = Sandbox(fs_readable=SYSTEM, net_allow_bind=[free, taken], port_remap=True)
        process = await box.aspawn(["/usr/bin/python3", "-c", LISTEN.format(port=free)])
        async with process:
            ports: dict[int, int] = {}
            while not ports:
                await asyncio.sleep(0.02)
                ports = await process.ports()
            assert ports == {free: free}
            reader, writer = await asyncio.open_connection("127.0.0.1", free)
            assert await reader.read() == b"hi"
            writer.close()
        assert await process.ports() == {}

    asyncio.run(asyncio.wait_for(main(), 60))


def test_without_a_supervisor_or_a_program_there_is_nothing_to_tell() -> None:
    box = Sandbox(fs_readable=SYSTEM)
    assert box.ports() == {}
    with box.popen(["/usr/bin/sleep", "100"]) as process:
        assert process.ports() == box.ports() == {}


def test_ps_and_inspect_tell_the_ports_of_a_named_run_until_they_are_closed(taken: int, tmp_path: Path) -> None:
    sandlock = Command(tmp_path)
    code = LISTEN.format(port=taken) + "; s.close(); import time; time.sleep(100)"
    options = ["--name", "job", "--net-allow-bind", str(taken), "--port-remap"]
    running = sandlock.start("run", *options, "--", "/usr/bin/python3", "-c", code)
    try:

        def ports() -> list[dict[str, Any]]:
            return [port for run in sandlock.told("ps")["runs"] for port in run["ports"]]

        [told] = until(ports)
        assert (told["protocol"], told["inside"]) == ("tcp", taken)
        real = told["outside"]
        assert f"  {taken}->{real}  " in sandlock("ps").stdout
        assert f"\n  ports    {taken}->{real}\n" in sandlock("inspect", "job").stdout
        assert sandlock.told("inspect", "job")["ports"] == [told]
        with socket.create_connection(("127.0.0.1", real)) as client:
            assert client.recv(9) == b"hi"
        socket.create_connection(("127.0.0.1", real)).close()
        until(lambda: not ports())
        assert len(sandlock.told("ps")["runs"]) == 1
        assert f"tcp port {taken}" in sandlock("logs", "job").stdout
    finally:
        running.kill()
        running.communicate()
