"""Behind Docker's default seccomp profile: what the kernel does alone holds, limits are served, the rest is refused.

There is no Docker here: container_rules.py has the rules of its profile, and container_lab.py is the container.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandlock_runtime.handover import takes_fds

pytestmark = [pytest.mark.needs("landlock", level=6), pytest.mark.needs("seccomp", level=2)]

INSIDE: dict[str, Any] = {"fs_readable": ["/"], "fs_writable": [], "cwd": "/"}
LAB = Path(__file__).with_name("container_lab.py")
SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]
# Runs inside: what is to be told goes into `told`.
START = """
import ctypes, json, os, socket, sys
from sandlock import Sandbox, SandlockError
folder, told = sys.argv[1], {}
def box(**fields):
    given = {"fs_readable": [*SYSTEM, folder + "/read"], "fs_writable": [folder + "/work"], **fields}
    return Sandbox(**{"cwd": folder + "/work", **given})
def python(code, *words, **fields):
    with box(**fields) as made:
        return made.run(["/usr/bin/python3", "-I", "-S", "-c", code, *words], timeout=60)
def text(result):
    return result.stdout.decode().strip()
"""


def contained(folder: Path, code: str, *options: str) -> dict[str, Any]:
    """What a program with sandlock in it told from inside the container."""
    program = START.replace("SYSTEM", repr(SYSTEM)) + code + "\nprint(json.dumps(told))"
    packages = os.pathsep.join(path for path in sys.path if "packages" in path)
    done = subprocess.run(
        [sys.executable, str(LAB), *options, sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": packages},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("read", "work", "root/usr"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "read/file").write_text("content\n")
    (tmp_path / "secret").write_text("secret\n")
    return tmp_path


def test_the_container_is_one(folder: Path) -> None:
    """No namespace, no copies of fds, no clone3; and the same calls work out here, or would reach the kernel."""
    code = """
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(*words): return ctypes.get_errno() if libc.syscall(*words) < 0 else 0
own = os.pidfd_open(os.getpid())
told = {"unshare": errno_of(NR_UNSHARE, 0x10000000), "getfd": errno_of(438, own, own, 0), "clone3": errno_of(435, 0, 0)}
"""
    from sandlock_arch import native

    told = contained(folder, code.replace("NR_UNSHARE", str(native().syscalls["unshare"])))
    assert told == {"unshare": 1, "getfd": 1, "clone3": 38}
    assert takes_fds()


def test_files_are_held_by_the_kernel_and_metadata_by_seccomp(folder: Path) -> None:
    code = """
result = python('''
import os, sys
print(open(sys.argv[1] + "/read/file").read().strip())
for act in (lambda: open(sys.argv[1] + "/secret"), lambda: os.chmod(sys.argv[1] + "/read/file", 0)):
    try: act(); print("won")
    except OSError as error: print(error.errno)
''', folder)
told = {"said": text(result).split(), "rows": {row.name: [row.state, row.layer] for row in result.protections}}
"""
    told = contained(folder, code)
    assert told["said"] == ["content", "13", "1"]
    assert told["rows"]["fs_metadata"] == ["active", "seccomp"]
    assert all(state == "active" for state, _ in told["rows"].values())


def test_limits_time_and_names_are_served_by_a_listener_that_the_child_passes(folder: Path) -> None:
    code = """
forks = '''
import os, time
n = 0
try:
    while n < 9:
        if not os.fork(): time.sleep(60)
        n += 1
except OSError: pass
print(n)
'''
told["forks"] = text(python(forks, max_processes=4))
told["memory"] = str(python("x = bytearray(300 << 20); import time; time.sleep(60)", max_memory="64M").reason)
told["year"] = text(python("import time; print(time.gmtime().tm_year)", time_start="2001-02-03T04:05:06Z"))
random = [text(python("import os; print(os.urandom(8).hex())", random_seed=7)) for _ in range(2)]
told["same"] = random[0] == random[1] != ""
told["name"] = text(python("import os; print(os.uname().nodename, os.cpu_count())", name="guest", num_cpus=1))
fds = '''
import os
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
print([fd for fd in range(64) if is_open(fd)])
'''
told["fds"] = text(python(fds, max_processes=4))
told["left"] = sorted(os.listdir("/proc/self/fd"))
python("", max_processes=4)
told["more"] = len(os.listdir("/proc/self/fd")) - len(told.pop("left"))
"""
    told = contained(folder, code)
    assert told.pop("memory").upper().endswith("MEMORY")
    expected = {"forks": "3", "year": "2001", "same": True, "name": "guest 1", "fds": "[0, 1, 2]", "more": 0}
    assert told == expected


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"chroot": "ROOT", "fs_mount_ro": {"/usr": "/usr"}, **INSIDE}, "chroot"),
        ({"workdir": "ROOT"}, "workdir"),
        ({"fs_denied": ["ROOT"]}, "fs_denied"),
        ({"deterministic_dirs": True}, "deterministic_dirs"),
        ({"net_deny": ["private"]}, "net_deny"),
        ({"http_allow": ["GET localhost/*"]}, "http_allow"),
        ({"unix_allow": ["ROOT/socket"]}, "unix_allow"),
    ],
)
def test_what_needs_a_programs_own_fds_is_refused_by_name(folder: Path, fields: dict[str, Any], name: str) -> None:
    code = f"""
fields = {fields!r}
fields = json.loads(json.dumps(fields).replace("ROOT", folder + "/root"))
try:
    python("open('ran', 'w')", **fields)
except SandlockError as error:
    told = {{"text": str(error), "kind": type(error).__name__}}
told["ran"] = os.path.exists(folder + "/work/ran")
"""
    told = contained(folder, code)
    assert (told["kind"], told["ran"]) == ("PolicyError", False)
    assert name in told["text"]
    assert "pidfd_getfd(2)" in told["text"] and "--cap-add SYS_PTRACE" in told["text"]


def test_the_remedy_helps(folder: Path) -> None:
    """With the capability Docker's profile lets pidfd_getfd pass; namespaces stay refused, and all is served."""
    code = """
import threading
servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
ports = [one.getsockname()[1] for one in servers]
reach = '''
import socket, sys
for port in sys.argv[1:]:
    try: socket.create_connection(("127.0.0.1", int(port)), timeout=30); print("reached")
    except OSError as error: print(error.errno)
'''
told["reach"] = text(python(reach, *map(str, ports), net_allow=[f"tcp://127.0.0.1:{ports[0]}"])).split()
branch = python("open('file', 'w').write('new'); print(open('file').read())", workdir=folder + "/read", on_exit="abort",
                cwd=folder + "/read", fs_storage=folder + "/storage")
told["branch"] = text(branch), open(folder + "/read/file").read()
"""
    told = contained(folder, code, "--cap-add=SYS_PTRACE")
    assert told["reach"][0] == "reached" and told["reach"][1] != "reached"
    assert told["branch"] == ["new", "content\n"]
