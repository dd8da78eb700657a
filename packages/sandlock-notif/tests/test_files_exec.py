"""A denied program does not run, by any name, as an interpreter, or by a name that flips (FS-13, NOT-01)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from file_calls import program
from supervision import supervise
from test_files_denied import ALL, HELPERS, READ, base

from sandlock_notif.fs.view import View
from sandlock_notif.handlers.exec import ExecTable
from sandlock_notif.handlers.files.running import ImageCheck
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]
_ = base  # the fixture


def run(base: Path, denied: list[Path], code: str) -> dict[str, str]:
    view = View(denied=[os.fsencode(path) for path in denied])
    tables = [FilesTable(view), ExecTable([ImageCheck(view)])]
    grants = [(b"/", READ), (os.fsencode(base), ALL)]
    outcome = supervise(program(code, str(base / "tree")), *tables, grants=grants, timeout_s=100)
    assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
    return dict(line.rsplit(" ", 1) for line in outcome.output.decode().splitlines())


RUN = (
    HELPERS
    + """
def run(label, *argv):
    pid = os.fork()
    if pid == 0:
        try: os.execve(argv[0], argv, {})
        except OSError as e: os._exit(100 + e.errno)
    status = os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    print(label, errno.errorcode[code - 100] if code > 100 else code)
"""
)


def test_fs_13_a_denied_program_is_refused_and_its_neighbour_runs(base: Path) -> None:
    for name in ("no", "ok"):
        shutil.copy("/bin/true", base / "tree/dir" / name)
    (base / "tree/alias").hardlink_to(base / "tree/dir/no")
    (base / "tree/link").symlink_to("dir/no")
    for name in ("ok", "no"):
        script = base / f"tree/script-{name}"
        script.write_text(f"#!{base}/tree/dir/{name}\n")
        script.chmod(0o755)
    (base / "tree/later").mkdir()
    shutil.copy("/bin/true", base / "tree/later/file")
    code = f"""{RUN}
for path in ("dir/no", "./dir/../dir/no", "alias", "link", "/proc/self/cwd/dir/no", "later/file"): run(path, path)
run("interpreter", "script-no")
run("control", "dir/ok"); run("control-script", "script-ok")
"""
    answers = run(base, [base / "tree/dir/no", base / "tree/later"], code)
    assert (answers.pop("control"), answers.pop("control-script")) == ("0", "0")
    assert answers.pop("interpreter") in {"-9", "EACCES"}
    assert len(answers) == 6
    assert set(answers.values()) == {"EACCES"}


def test_not_01_a_program_name_that_flips_never_runs_the_denied_one(base: Path) -> None:
    """The denied program leaves a mark where it runs; 400 execs while a link flips, which win against a judged path."""
    shutil.copy("/bin/touch", base / "tree/dir/no")
    shutil.copy("/bin/true", base / "tree/dir/ok")
    (base / "tree/flip").symlink_to("dir/ok")
    (base / "tree/flop").symlink_to("dir/no")
    code = f"""{RUN}
flipper = os.fork()
if flipper == 0:
    while True: libc.syscall(numbers["renameat2"], -100, b"flip", -100, b"flop", 2)
ran = 0
for n in range(400):
    pid = os.fork()
    if pid == 0:
        try: os.execve("flip", ["flip", "ran-" + str(n)], {{}})
        except OSError: os._exit(7)
    ran += os.waitpid(pid, 0)[1] == 0
os.kill(flipper, 9)
print("wins", len([n for n in os.listdir(".") if n.startswith("ran-")])); print("control", ran)
"""
    answers = run(base, [base / "tree/dir/no"], code)
    assert answers["wins"] == "0"
    assert int(answers["control"]) > 10
