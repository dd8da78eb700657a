"""A program that tells what it evaluates, in a sandbox that is saved and restored: for the tests of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandlock import PIPE, Checkpoint, Process, Sandbox

__all__ = ["NEEDED", "PROGRAM", "SYSTEM", "answer", "ask", "box", "restored", "saved", "start"]

NEEDED = [
    pytest.mark.needs("landlock", level=1),
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("x86_64"),
]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/alternatives", "/dev/urandom"]
# Answers each line with what it evaluates to; the number and the token are its memory.
PROGRAM = """
import errno, os, queue, socket, subprocess, sys, threading, time
token, number = os.urandom(8).hex(), 0
asked, told = queue.Queue(), queue.Queue()
def work():
    while True:
        told.put(asked.get() * 2)
def workers(count):
    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()
def doubled():
    for value in range(100):
        asked.put(value)
    return sum(told.get() for _ in range(100))
def forked():
    pid = os.fork()
    if not pid:
        os._exit(0)
    return os.waitpid(pid, 0)[1]
for line in iter(sys.stdin.readline, ""):
    number += 1
    try:
        answer = eval(line)
    except OSError as error:
        answer = errno.errorcode[error.errno]
    print(number, token, answer, flush=True)
"""


def box(folder: Path, **fields: Any) -> Sandbox:
    readable = [*SYSTEM, str(folder), *fields.pop("more", ())]
    return Sandbox(**{"fs_readable": readable, "cwd": str(folder), "fs_writable": ["-/dev/null"], **fields})


def start(sandbox: Sandbox) -> Process:
    return sandbox.popen(["/usr/bin/python3", "-c", PROGRAM], stdin=PIPE, stdout=PIPE)


def restored(sandbox: Sandbox, image: Path | Checkpoint, **options: Any) -> Process:
    return sandbox.restore(image, stdin=PIPE, stdout=PIPE, **options)


def ask(process: Process, question: str = "0") -> list[str]:
    """Return number, token and answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question.encode() + b"\n")
    process.stdin.flush()
    return process.stdout.readline().decode().rstrip("\n").split(" ", 2)


def answer(process: Process, question: str) -> str:
    return ask(process, question)[2]


def saved(sandbox: Sandbox, image: Path, **options: Any) -> None:
    with sandbox.checkpoint(**options) as checkpoint:
        checkpoint.save(image)
