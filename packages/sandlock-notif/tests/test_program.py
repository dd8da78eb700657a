"""What an execve will run is found before it is let go, and nothing else runs (NOT-01)."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervision import PYTHON, Outcome, Table, supervise

from sandlock_notif import Action, Errno, Request, Trap
from sandlock_notif.handlers.exec import ExecTable, read_command
from sandlock_notif.program import parse_first_line, pin

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
    pytest.mark.needs("ptrace"),
    pytest.mark.usefixtures("leaks"),
]

# The arguments lie in memory that the parent shares; it adds to them while the call is judged. `how` names the program:
# an fd that the exec closes, a link that is swapped, or a name below a folder that is left by a thread's chdir.
ATTACK = """
import ctypes, mmap, os, sys, threading, time
how, add, folder = sys.argv[1], sys.argv[2] == "add", sys.argv[3]
libc = ctypes.CDLL(None)
shared = mmap.mmap(-1, 4096)
base = ctypes.addressof(ctypes.c_char.from_buffer(shared))
words = (ctypes.c_uint64 * 8).from_buffer(shared)
def text(at, value):
    shared[at:at + len(value) + 1] = value + b"\\0"
    return base + at
path = {"fd": b"/dev/fd/77", "link": os.fsencode(folder) + b"/link", "relative": b"./sh"}[how]
good, dash, script, last = text(100, b"good"), text(200, b"-c"), text(300, b"exit 42"), text(400, path)
os.chdir(folder)
codes = []
for _ in range(4):
    for name in ("link", "sh"):
        if os.path.lexists(name): os.unlink(name)
        os.symlink("/bin/sh", name)
    words[0], words[1] = good, 0
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        fd = os.open("/bin/sh", os.O_RDONLY)
        os.dup2(fd, 77, inheritable=False)
        libc.execv(path, ctypes.c_void_p(base))
        os._exit(99)
    time.sleep(0.03)
    if add:
        words[1], words[2], words[3], words[4] = dash, script, last, 0
        if how == "link": os.unlink("link"); os.symlink(os.path.realpath("/bin/sh"), "link")
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(*codes)
"""


def only_good() -> Table:
    async def decide(request: Request) -> Action | None:
        command = read_command(request, at=False)
        if command.arguments[0] != b"good":
            return None
        await asyncio.sleep(0.08)
        return None if command.arguments == (b"good",) else Errno(1)

    return Table((Trap("execve", decide, "judged"),))


@pytest.mark.parametrize("how", ["fd", "link", "relative"])
def test_not_01_words_in_front_of_a_program_are_not_taken_for_its_interpreter(how: str, tmp_path: Path) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(0o755)

    def attack(add: str, *tables: ExecTable) -> Outcome:
        command = [PYTHON, "-I", "-S", "-c", ATTACK, how, add, str(tmp_path)]
        return supervise(command, only_good(), *tables)

    assert b"42" in attack("add").output  # it wins where the kernel simply reads again
    codes = attack("add", ExecTable(verify=True)).output.split()
    assert b"-9" in codes
    assert b"42" not in codes
    calm = attack("no", ExecTable(verify=True))
    assert (calm.output.split(), calm.events) == ([b"0"] * 4, [])


def test_a_program_is_run_by_the_links_to_itself() -> None:
    code = """
import os, sys
if len(sys.argv) > 1: print("again", sys.argv[1], flush=True); sys.exit()
os.dup2(os.open(sys.executable, os.O_RDONLY), 9)
for path in ("/proc/self/exe", "/proc/thread-self/exe", "/dev/fd/9", "/proc/self/fd/9"):
    if os.fork() == 0: os.execv(path, ["python3", "-I", "-S", "-c", SELF, path])
    os.wait()
"""
    outcome = supervise([PYTHON, "-I", "-S", "-c", f"SELF = {code!r}\n{code}"], ExecTable(verify=True))
    assert outcome.output.count(b"again") == 4
    assert outcome.events == []


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"\x7fELF", None),
        (b"#!/bin/sh\necho", (b"/bin/sh", b"")),
        (b"#! \t/bin/sh -e\t x \nrest", (b"/bin/sh", b"-e\t x")),
        (b"#!/bin/sh", (b"/bin/sh", b"")),
        (b"#!/bin/sh\0 -c\n", (b"/bin/sh", b"")),
        (b"#!/bin/sh " + b"a" * 300, (b"/bin/sh", b"a" * 245)),
    ],
)
def test_a_first_line_means_what_it_means_to_the_kernel(head: bytes, found: tuple[bytes, bytes] | None) -> None:
    assert parse_first_line(head) == found


@pytest.mark.parametrize("head", [b"#!", b"#! \n/bin/sh", b"#!/" + b"a" * 300])
def test_a_first_line_without_an_interpreter_runs_nothing(head: bytes) -> None:
    with pytest.raises(ValueError, match="interpreter"):
        parse_first_line(head)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # `leaks`, which looks at all of them
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: b"#!" + rest))
def test_of_any_first_line_an_interpreter_is_one_word_or_nothing_runs(head: bytes) -> None:
    try:
        found = parse_first_line(head)
    except ValueError:
        assert head.startswith(b"#!")
        return
    assert (found is None) == (not head.startswith(b"#!"))
    if found is not None:
        assert found[0]
        assert not set(found[0]) & set(b" \t\n\0")


def test_scripts_of_every_first_line_that_the_kernel_takes_run(tmp_path: Path) -> None:
    script = tmp_path / "script"
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(0o755)
    for head in ("#!/bin/echo", "#! \t/bin/echo a\t b \n", "#!/bin/echo\0 x\n", f"#!/bin/echo {'a' * 300}\n"):
        script.write_text(head)
        script.chmod(0o755)
        outcome = supervise(
            [PYTHON, "-I", "-S", "-c", f"import os; os.execv({str(script)!r}, ['0', 'end'])"], ExecTable(verify=True)
        )
        assert (outcome.output.endswith(f"{script} end\n".encode()), outcome.events) == (True, [])


def test_a_name_that_leads_nowhere_is_no_script_and_nothing_waits(tmp_path: Path) -> None:
    fifo, loop, script = tmp_path / "fifo", tmp_path / "loop", tmp_path / "script"
    os.mkfifo(fifo)
    loop.write_text(f"#!{loop}\n")
    script.write_text("#!/nowhere/at/all\n")
    me = os.getpid()
    for path, words in ((tmp_path / "absent", (b"a", b"b")), (fifo, (b"a", b"b")), (loop, None), (script, None)):
        program = pin(me, os.fsencode(path), [b"a", b"b"])
        assert program.words == words
        assert program.file < 0 or stat.S_ISFIFO(os.fstat(program.file).st_mode)
        program.close()
