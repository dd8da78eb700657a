"""The caller's callback beside real programs: limits that it narrows, builds and signals that must not feel it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandlock import PolicyContext, Result, Sandbox, SyscallEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]
PYTHON = ["/usr/bin/python3", "-I", "-S", "-c"]
# Has room for what it wants, runs a program that the callback knows, and wants as much again.
MEMORY = """
import subprocess, time
assert len(b"x" * (200 << 20))
print("had room", flush=True)
subprocess.run(["/bin/true", "narrow"], check=True)
kept = b"x" * (200 << 20)
time.sleep(30)
"""
PROCESSES = """
import os, signal, subprocess
def fill():
    made = []
    try:
        while len(made) < 20:
            made.append(os.fork())
            if not made[-1]:
                signal.pause()
    except BlockingIOError:
        pass
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(made)
print(fill(), flush=True)
subprocess.run(["/bin/true", "narrow"], check=True)
print(fill(), flush=True)
"""
MAKEFILE = """
all: $(foreach letter,a b c,$(addprefix $(letter),1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16))
%:
\t@/bin/echo $@ >> done
"""
SIGNALLED = """
import os, signal, sys, threading
hits = 0
def hit(*_):
    global hits
    hits += 1
signal.signal(signal.SIGURG, hit)
signal.siginterrupt(signal.SIGURG, False)
over = threading.Event()
def pester():
    while not over.wait(0.0005):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGURG)
threading.Thread(target=pester, daemon=True).start()
rounds = 0
while rounds < 40 or hits < 200:
    rounds += 1
    for _ in range(10):
        os.close(os.open("/usr/bin/env", os.O_RDONLY))
        os.stat("/usr/bin")
    assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
over.set()
print("undisturbed")
"""


def run(words: list[str], **fields: Any) -> Result:
    fields = {"fs_readable": SYSTEM, **fields}
    return Sandbox(**fields).run(words, timeout=60)


def allow(_event: SyscallEvent, _context: PolicyContext) -> None:
    """Let everything pass, after having been asked."""


def narrowing(method: str, *arguments: int) -> Callable[[SyscallEvent, PolicyContext], None]:
    """A callback that calls `method` of its context when a program is executed with the argument `narrow`."""

    def narrow(event: SyscallEvent, context: PolicyContext) -> None:
        if event.syscall == "execve" and "narrow" in (event.argv or ()):
            getattr(context, method)(*arguments)

    return narrow


def test_memory_is_narrowed_while_the_program_runs() -> None:
    narrow = narrowing("restrict_max_memory", 96 << 20)
    result = run([*PYTHON, MEMORY], max_memory="2G", policy_fn=narrow)
    assert (result.reason, result.stdout) == ("MEMORY", b"had room\n")


def test_processes_are_narrowed_while_the_program_runs_and_never_widened() -> None:
    for wanted, expected in ((3, b"5\n2\n"), (50, b"5\n5\n")):
        narrow = narrowing("restrict_max_processes", wanted)
        result = run([*PYTHON, PROCESSES], max_processes=6, policy_fn=narrow)
        assert (result.stdout, result.success) == (expected, True), result


def test_a_limit_that_the_policy_does_not_have_cannot_be_narrowed() -> None:
    for method in ("restrict_max_memory", "restrict_max_processes"):
        script = "/bin/true narrow || echo refused"
        result = run(["/bin/sh", "-c", script], policy_fn=narrowing(method, 5))
        assert result.stdout == b"refused\n"
        assert f"{method}: nothing in this sandbox serves it" in result.denials[0].reason


@pytest.mark.needs("command:make")
def test_a_build_with_many_jobs_loses_no_program(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    result = run(["make", "-s", "-j8"], policy_fn=allow, fs_writable=[str(tmp_path)], cwd=str(tmp_path))
    assert result.success, result
    assert len((tmp_path / "done").read_text().split()) == 48 + 1  # and "all"


@pytest.mark.parametrize(
    "fields", [{"fs_denied": ["/usr/games"], "namespaces": "off"}, {"policy_fn": allow}], ids=["files", "callback"]
)
def test_signals_that_a_runtime_sends_its_threads_all_the_time_break_no_call(fields: dict[str, Any]) -> None:
    """As Go and Java do to stop their threads: with SA_RESTART, at any moment."""
    result = run([*PYTHON, SIGNALLED], max_processes=16, **fields)
    assert (result.stdout, result.success) == (b"undisturbed\n", True), result
