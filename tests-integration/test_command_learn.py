"""`sandlock learn`: what is written runs the same command again, and grants no more than was used."""

from __future__ import annotations

import os
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from command_lab import Command

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("landlock", level=6)

PROGRAM = """
import http.server, os, pathlib, subprocess, tempfile, threading, urllib.request
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
try: urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/")
except urllib.error.HTTPError as error: print(error.code)
print(pathlib.Path("in/data").read_text())
os.makedirs("out", exist_ok=True)
pathlib.Path("out/new").write_text("x")
os.rename("out/new", "out/result")
with tempfile.NamedTemporaryFile() as file: print(pathlib.Path(file.name).parent.name.count("sandlock-"))
print(subprocess.run(["sh", "-c", "echo shell; cat < /proc/self/comm"], capture_output=True).stdout.decode())
"""


@pytest.fixture
def sandlock(tmp_path: Path) -> Command:
    """The command, in a folder with a program and its data."""
    command = Command(tmp_path)
    (command.work / "in").mkdir()
    (command.work / "in/data").write_text("data")
    (command.work / "in/other").write_text("other")
    (command.work / "out").mkdir()
    return command


def learned(sandlock: Command, *words: str) -> dict[str, Any]:
    done = sandlock("learn", "--name", "it", *words)
    assert done.returncode == 0, done.stderr
    path = sandlock.work.parent / "home/.config/sandlock/profiles/it.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    return tomllib.loads(path.read_text())


@pytest.mark.needs("user_namespace")
def test_a_learned_profile_runs_the_same_command_again(sandlock: Command) -> None:
    profile = learned(sandlock, "--", sys.executable, "-IB", "-c", PROGRAM)
    first = (sandlock.work / "out/result").read_text()
    again = sandlock("run", "-p", "it", "--", sys.executable, "-IB", "-c", PROGRAM)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[:4] == ["501", "data", "1", "shell"]
    assert first == (sandlock.work / "out/result").read_text()
    read, write = profile["filesystem"]["read"], profile["filesystem"]["write"]
    assert f"-{sandlock.work}/in/data" in read
    assert f"{sandlock.work}/out" in write
    assert str(sandlock.work) not in (*read, *write)
    assert profile["network"] == {"allow_bind": [0]}


def test_no_more_is_granted_than_was_used(sandlock: Command) -> None:
    learned(sandlock, "--", "sh", "-c", "cat in/data; echo x > out/a")
    assert sandlock("run", "-p", "it", "-e", "cat in/data; echo x > out/a").stdout == "data"
    for other in ("cat in/other", "echo x > in/data", "echo x > new", "echo x > /dev/tcp/127.0.0.1/1"):
        assert sandlock("run", "-p", "it", "-e", other).returncode != 0, other
    assert (sandlock.work / "in/data").read_text() == "data"


def test_a_profile_is_never_written_where_its_program_could_change_it(sandlock: Command) -> None:
    words = ("-o", "p.toml", "--", "sh", "-c", "echo x > made-here")
    done = sandlock("learn", *words)
    assert done.returncode == 1
    assert "could grant itself more" in done.stderr
    assert not (sandlock.work / "p.toml").exists()
    assert str(sandlock.work) in done.stdout, "it is printed instead"
    done = sandlock("learn", "-o", "p.toml", "--", "cat", "in/data")
    assert done.returncode == 0, "the control: a program that writes nothing"
    assert (sandlock.work / "p.toml").exists()


def test_nothing_is_overwritten_unasked_and_merging_adds(sandlock: Command) -> None:
    learned(sandlock, "--", "cat", "in/data")
    done = sandlock("learn", "--name", "it", "--", "touch", "out/ran")
    assert done.returncode == 2
    assert "--merge" in done.stderr
    assert not (sandlock.work / "out/ran").exists(), "it is told before anything runs"
    both = learned(sandlock, "--merge", "--", "cat", "in/other")["filesystem"]["read"]
    assert {f"-{sandlock.work}/in/{name}" for name in ("data", "other")} <= set(both)
    one = learned(sandlock, "--replace", "--", "cat", "in/other")["filesystem"]["read"]
    assert f"-{sandlock.work}/in/data" not in one


def test_what_cannot_be_known_is_told(sandlock: Command) -> None:
    home = sandlock.work.parent / "home"
    (home / ".ssh").mkdir()
    (home / ".ssh/id_rsa").write_text("secret")
    done = sandlock(
        "learn", "--env", "API_TOKEN=s3cret", "-o", "-", "--", "sh", "-c", "ls ~; cat ~/.ssh/id_rsa; exit 3"
    )
    assert done.returncode == 3
    for said in ("was listed, and is not granted", "looks like a secret", "exit code 3", "one way through the program"):
        assert said in done.stdout
    assert "s3cret" not in done.stdout
    profile = tomllib.loads(done.stdout[done.stdout.index("# Learned") :])
    assert "-~/.ssh/id_rsa" in profile["filesystem"]["read"]
    assert not {"~", "~/.ssh", str(home)} & set(profile["filesystem"]["read"])
    assert profile["program"]["env"] == ["API_TOKEN"]


def test_verify_runs_it_again(sandlock: Command) -> None:
    good = sandlock("learn", "--name", "good", "--verify", "--", "cat", "in/data")
    assert (good.returncode, good.stdout) == (0, "datadata")
    bad = sandlock("learn", "--name", "bad", "--verify", "--", "ls", os.fspath(sandlock.work.parent / "home"))
    assert bad.returncode == 1
    assert "ends with status" in bad.stderr


PEERS = """
import socket, struct
question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\\7example\\3org\\0" + struct.pack("!HH", 1, 1)
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
socket.create_connection(server.getsockname()).close()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
    ask.connect(("127.0.0.1", 53)); ask.send(question)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as say: say.sendto(b"x", ("127.0.0.1", 4242))
with socket.socket() as refused: refused.connect_ex(("localhost", 4243))
"""


def test_peers_are_learned_by_protocol_and_port(sandlock: Command) -> None:
    profile = learned(sandlock, "--", sys.executable, "-IB", "-c", PEERS)
    assert profile["network"]["allow_bind"] == [0]
    assert set(profile["network"]["allow"]) == {"udp://127.0.0.1:53,4242", "tcp://127.0.0.1:4243"}
    again = sandlock("run", "-p", "it", "--", sys.executable, "-IB", "-c", PEERS)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("words", [(), ("--merge", "--replace", "--", "true"), ("--name", "../x", "--", "true")])
def test_what_cannot_be_learned_is_told(sandlock: Command, words: tuple[str, ...]) -> None:
    done = sandlock("learn", *words)
    assert done.returncode in (2, 125)
    assert done.stderr.startswith("sandlock: ")
    assert "Traceback" not in done.stderr
