"""A file server that answers nothing holds up who asks it, and nobody else: neither the loop nor other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandlock_testkit.needs import lacks

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("user_namespace"),
]

HERE = Path(__file__).parent
# What a program may ask of a file whose name the kernel knows, and whose server has to be asked for the rest.
CALLS = {
    "stat": "os.stat(FILE)",
    "lstat": "os.lstat(LINK)",
    "stat of an fd's path": "os.stat(f'/proc/self/fd/{os.open(FILE, os.O_PATH)}')",
    "stat of an fd": "os.stat(HELD_FOLDER), libc.fstatat(HELD, b'', buffer, 0x1000)",
    "stat below an fd": "os.stat('file', dir_fd=HELD_FOLDER)",
    "access": "os.access(FILE, os.R_OK)",
    "readlink": "os.readlink(LINK)",
    "statfs": "os.statvfs(FILE)",
    "getxattr": "os.getxattr(FILE, 'user.name')",
    "listxattr": "os.listxattr(FILE)",
    "setxattr": "os.setxattr(FILE, 'user.name', b'')",
    "open": "os.close(os.open(FILE, os.O_RDONLY))",
    "open for writing": "os.close(os.open(FILE, os.O_WRONLY))",
    "listdir": "os.listdir(MOUNT)",
    "chmod": "os.chmod(FILE, 0o755)",
    "utime": "os.utime(FILE)",
    "truncate": "os.truncate(FILE, 0)",
    "mkdir": "os.mkdir(MOUNT + '/new')",
    "chdir": "os.chdir(MOUNT)",
    "unknown name": "os.stat(MOUNT + '/unknown' + str(os.getpid()))",
    "below": "os.stat(MOUNT + '/folder/..')",
    "exec": "run(FILE)",
}
PROGRAM = """
import ctypes, os, sys, threading
MOUNT, calls = sys.argv[1], sys.argv[2:]
FILE, LINK = MOUNT + "/file", MOUNT + "/link"
HELD_FOLDER, HELD = os.open(MOUNT, os.O_PATH), os.open(FILE, os.O_PATH)
libc, buffer = ctypes.CDLL(None), ctypes.create_string_buffer(256)
for path in FILE, LINK: os.lstat(path)
def say(word): print(word, flush=True)
def run(path):  # not by vfork, which keeps the interpreter until it is over
    child = os.fork()
    if not child:
        try: os.execv(path, [path])
        finally: os._exit(1)
    os.waitpid(child, 0)
for call in calls:
    def ask():
        try: eval(call)
        except OSError: pass
        say("answered")
    say("ready")
    input()
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(0.1)  # it is on its way to the server, or in the hands of who asks for it
    for _ in range(20):
        os.stat("/usr/bin/env"); os.access("/usr/bin", os.X_OK); os.close(os.open("/usr/bin/env", os.O_RDONLY))
    say("alive")
    thread.join()
"""
HOST = """
import os, select, sys
from sandlock_runtime import PIPE, Sandbox
mount, readable, program, *calls = sys.argv[1:]
orders = int(os.environ["FILE_SERVER"])
box = Sandbox(namespaces="off", fs_denied=["/usr/bin/env-is-not-this"], fs_readable=[*readable.split(":"), mount],
              fs_writable=[mount])
late, hung = [], 0
with box.popen(["/usr/bin/python3", "-I", "-S", "-c", program, mount, *calls], stdin=PIPE, stdout=PIPE) as process:
    def line(wait_s=60):
        if not select.select([process.stdout], [], [], wait_s)[0]: return ""
        found = b""
        while not found.endswith(b"\\n"):
            byte = os.read(process.stdout.fileno(), 1)
            if not byte: sys.exit(f"the program ended: {process.wait(10)}")
            found += byte
        return found.decode().strip()
    for call in calls:
        assert line() == "ready"
        os.write(orders, b"h")
        process.stdin.write(b"\\n"); process.stdin.flush()
        words = [line(8)]
        hung += words == ["alive"]
        os.write(orders, b"g")
        if not words[0]: late.append(call)
        while len(words) < (2 if words[0] else 3): words.append(line())
        assert {"alive", "answered"} <= set(words), words
    assert process.wait(30).success
print(hung, "\\n".join(late))
"""


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    folder = tmp_path / "mount"
    folder.mkdir()
    return folder


def ask(mount: Path, *calls: str) -> tuple[int, list[str]]:
    """How many calls waited for the server while everything else went on, and the calls that held everything up."""
    readable = f"/usr:/lib:/lib64:/etc/ld.so.cache:{sys.base_prefix}"
    command = [sys.executable, str(HERE / "file_server.py"), str(mount), sys.executable, "-c", HOST, str(mount)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*command, readable, PROGRAM, *calls], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    if done.returncode == 77:
        lacks("user_namespace", f"no file system in user space can be mounted: {done.stderr}")
    assert done.returncode == 0, done.stderr
    hung, _, late = done.stdout.partition(" ")
    return int(hung), late.split("\n")[:-1] if late.strip() else []


def test_a_file_server_that_is_dead_holds_up_nobody_else(mount: Path) -> None:
    hung, late = ask(mount, *CALLS.values())
    assert late == []
    assert hung > len(CALLS) // 2, "or the server was asked for nothing"
