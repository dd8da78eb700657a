"""The machine that a program finds in /proc is the sandbox's: memory, time, load, processors, name, sockets, mounts.

Each claim is tested twice: as namespaces show it, and as the supervisor serves it where there are none.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sandlock import PIPE, Result, Sandbox

pytestmark = [
    pytest.mark.needs("landlock", level=1),
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.parametrize("namespaces", [pytest.param("auto", marks=pytest.mark.needs("mount_namespace")), "off"]),
]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/alternatives", "/proc"]
SYSINFO = """
import ctypes, struct
content = ctypes.create_string_buffer(112)
ctypes.CDLL(None).sysinfo(content)
told = struct.unpack("=q3Q6QH6x2QI4x", content.raw)
"""
STARTED_AT_BOOT_KERNEL = (6, 3)  # before, an exec does not enter the time namespace


def box(namespaces: str, **fields: Any) -> Sandbox:
    fields = {"fs_readable": SYSTEM, "fs_writable": ["/dev/null"], **fields}
    return Sandbox(namespaces=namespaces, **fields)


def sh(namespaces: str, script: str, **fields: Any) -> Result:
    return box(namespaces, **fields).run(["/bin/sh", "-c", script], timeout=60)


def python(namespaces: str, code: str, **fields: Any) -> list[str]:
    result = box(namespaces, **fields).run(["/usr/bin/python3", "-c", code], timeout=60)
    assert result.success, result
    return result.stdout.decode().splitlines()


def own_clock(namespaces: str) -> None:
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if namespaces == "auto" and release < STARTED_AT_BOOT_KERNEL:
        pytest.skip("on this kernel an exec does not enter its time namespace, so the time since boot is the host's")


def test_the_memory_is_what_the_limit_says(namespaces: str) -> None:
    code = f"""{SYSINFO}
import subprocess, time
def meminfo(): return {{line.split(":")[0]: int(line.split()[1]) for line in open("/proc/meminfo")}}
print(meminfo()["MemTotal"], meminfo()["SwapTotal"], told[4] * told[-1], told[8])
print(subprocess.run(["free", "-k"], capture_output=True, text=True).stdout.split()[7])
kept, end = b"x" * (96 << 20), time.monotonic() + 30
while meminfo()["MemAvailable"] > (256 - 90) << 10 and time.monotonic() < end: time.sleep(0.1)
ctypes.CDLL(None).sysinfo(content)
left = struct.unpack("=q3Q6QH6x2QI4x", content.raw)[5]
print(meminfo()["MemAvailable"] <= (256 - 90) << 10, 0 < left <= (256 - 90) << 20, meminfo()["MemAvailable"] > 0)
"""
    kib = 256 << 10
    lines = python(namespaces, code, max_memory="256M")
    assert lines == [f"{kib} 0 {kib << 10} 0", str(kib), "True True True"]
    assert int(Path("/proc/meminfo").read_text().split()[1]) != kib


def test_inf_03_time_since_boot_begins_with_the_sandbox(namespaces: str) -> None:
    own_clock(namespaces)
    code = f"""{SYSINFO}
import time
field = lambda: int(open("/proc/self/stat").read().rpartition(")")[2].split()[19]) / 100
booted = next(int(line.split()[1]) for line in open("/proc/stat") if line.startswith("btime"))
print(float(open("/proc/uptime").read().split()[0]), told[0], field(), time.time() - booted)
"""
    if float(Path("/proc/uptime").read_text().split()[0]) < 200:
        pytest.skip("this host has only just been started")
    for fields in ({}, {"time_start": "2001-09-09T01:46:40Z"}):
        assert all(-1 <= float(word) < 60 for word in python(namespaces, code, **fields)[0].split())
    script = "date -u +%Y; ps -o lstart= -p $$"
    told = sh(namespaces, script, time_start="2001-09-09T01:46:40Z").stdout.decode().split()
    assert (told[0], told[-1]) == ("2001", "2001")


def test_the_load_is_the_sandboxs_own(namespaces: str) -> None:
    code = """
import os, time
load = lambda: open("/proc/loadavg").read().split()
print(load()[:3])
for _ in range(3):
    if os.fork() == 0:
        while True: pass
end = time.monotonic() + 40
while float(load()[0]) < 0.2 and time.monotonic() < end: time.sleep(0.2)
told = load()
print(float(told[0]) >= 0.2, float(told[0]) > float(told[1]) >= float(told[2]), float(told[0]) < 8)
print(1 <= int(told[3].split("/")[0]) <= int(told[3].split("/")[1]) < 12, os.getloadavg()[0] > 0)
used = lambda: sum(int(word) for word in open("/proc/stat").readline().split()[1:4])
while used() <= 100 and time.monotonic() < end: time.sleep(0.2)
print(used() > 100)
"""
    first, *rest = python(namespaces, code)
    assert first == "['0.00', '0.00', '0.00']"
    assert rest == ["True True True", "True True", "True"]


def test_the_processors_are_as_many_as_said_everywhere(namespaces: str) -> None:
    script = """
nproc; grep -c '^processor' /proc/cpuinfo; grep -c '^cpu[0-9]' /proc/stat; cat /sys/devices/system/cpu/online
/usr/bin/python3 -c 'import os; print(os.cpu_count(), len(os.sched_getaffinity(0)))'
"""
    result = sh(namespaces, script, fs_readable=[*SYSTEM, "/sys/devices/system/cpu"], num_cpus=5)
    assert result.stdout.decode().splitlines() == ["5", "5", "5", "0-4", "5 5"], result


def test_the_name_is_the_same_everywhere(namespaces: str) -> None:
    grants = [*SYSTEM, *(["/etc/hostname"] if os.path.exists("/etc/hostname") else [])]
    script = "uname -n; cat /proc/sys/kernel/hostname; /usr/bin/python3 -c 'import socket; print(socket.gethostname())'"
    script += "; test ! -e /etc/hostname || cat /etc/hostname"
    assert set(sh(namespaces, script, fs_readable=grants, name="box-9").stdout.decode().split()) == {"box-9"}


def test_no_socket_of_the_host_is_in_proc_and_own_ones_are(namespaces: str) -> None:
    code = """
import os, socket, threading
one, _ = socket.socketpair()
folders = ["/proc/net", "/proc/self/net", "/proc/thread-self/net", f"/proc/{os.getpid()}/net",
           f"/proc/self/task/{threading.get_native_id()}/net", "/proc/self/root/proc/net"]
for folder in folders:
    for name in sorted(os.listdir(folder)):
        if os.path.isfile(f"{folder}/{name}"):
            try: print(open(f"{folder}/{name}", errors="replace").read())
            except OSError: pass
inside = os.open("/proc/self/net", os.O_PATH)
print(open(os.open("unix", os.O_RDONLY, dir_fd=inside)).read())
print("own", str(os.fstat(one.fileno()).st_ino) in open("/proc/net/unix").read())
"""
    name = f"sandlock-{time.time_ns()}"
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(f"\0{name}")
        port = f":{tcp.getsockname()[1]:04X} "
        assert name in Path("/proc/net/unix").read_text()
        assert port in Path("/proc/net/tcp").read_text()
        lines = python(namespaces, code)
    assert lines[-1] == "own True"
    assert len(lines) > 20
    assert not [line for line in lines if name in line or port in line]


def test_inf_03_files_about_the_whole_machine_are_empty(namespaces: str) -> None:
    script = "for f in cmdline interrupts kallsyms keys key-users; do test -e /proc/$f && cat /proc/$f; done; echo end"
    assert Path("/proc/cmdline").read_bytes()
    assert sh(namespaces, script).stdout == b"end\n"


def test_own_processes_are_there_with_all_of_theirs(namespaces: str) -> None:
    code = """
import os, subprocess
child = subprocess.Popen(["/bin/sleep", "60"])
folder = f"/proc/{child.pid}"
while "sleep" not in open(f"{folder}/cmdline").read() or not open(f"{folder}/maps").read(): pass  # still in its exec
print(str(child.pid) in os.listdir("/proc"), open(f"{folder}/stat").read().split()[0] == str(child.pid))
print(open(f"{folder}/cmdline").read().split(chr(0))[:2], os.readlink(f"{folder}/exe").rpartition("/")[2])
print(bool(os.listdir(f"{folder}/fd")), bool(open(f"{folder}/maps").read()), bool(open(f"{folder}/mountinfo").read()))
child.kill(); child.wait(); print(os.path.exists(folder))
"""
    told = python(namespaces, code)
    assert told[0] == "True True"
    assert told[1].startswith("['/bin/sleep', '60']")
    assert told[2:] == ["True True True", "False"]


def test_identifiers_come_from_the_seed(namespaces: str) -> None:
    script = "cd /proc/sys/kernel/random; cat boot_id uuid uuid; cat /proc/sys/kernel/random/boot_id"
    first, second = (sh(namespaces, script, random_seed=5).stdout.decode().split() for _ in range(2))
    assert first == second
    assert len(set(first)) == 3
    assert first[0] == first[3] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert sh(namespaces, script, random_seed=6).stdout.decode().split()[0] != first[0]


def test_attempts_to_execute_do_not_shift_what_comes_after(namespaces: str) -> None:
    """However many folders of PATH a program was looked for in: getrandom and the 16 bytes of the image stay."""
    code = """import ctypes, os
get = ctypes.CDLL(None).getauxval; get.restype, get.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
print(ctypes.string_at(get(25), 16).hex(), os.getrandom(8).hex())"""
    found = set()
    for path in ("/usr/bin", "/a:/b:/c:/usr/bin", "/a:" * 40 + "/usr/bin"):
        words = ["/usr/bin/env", "-i", f"PATH={path}", "PYTHONHASHSEED=0", "python3", "-c", code]
        result = box(namespaces, random_seed=1).run(words, timeout=60)
        assert result.success, result
        found.add(result.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("name", ["mounts", "mountinfo", "mountstats"])
def test_inf_05_mounts_are_told_that_the_grants_reach(namespaces: str, name: str) -> None:
    script = f"cat /proc/{name} /proc/self/{name} /proc/self/task/*/{name} /proc/$$/{name}"
    if name != "mounts":
        script = script.replace(f"/proc/{name} ", "", 1)
    told = sh(namespaces, script).stdout.decode()
    real = Path("/proc/self/mountinfo").read_text().splitlines()
    assert " /proc " in told
    assert [line for line in real if line.split()[4] == "/sys"]
    if namespaces == "off":  # with a namespace it is the kernel's
        assert " /sys " not in told
        devices = {line.partition(" - ")[2].split()[1] for line in real}
        assert not [name for name in devices if name.startswith("/") and name in told.split()]


def test_private_files_are_a_processs_own_and_its_ancestors(namespaces: str) -> None:
    code = """
import os, subprocess, sys
words = [sys.executable, "-c", "import os; os.read(0, 1)"]
child = subprocess.Popen(words, stdin=subprocess.PIPE, env={"MARK": "of the child"})
while "MARK" not in open(f"/proc/{child.pid}/environ").read(): pass  # still in its exec
for name in ("maps", "auxv", "smaps_rollup"): print(len(open(f"/proc/{child.pid}/{name}", "rb").read()) > 40)
print("of the child" in open(f"/proc/{child.pid}/environ").read())
child.communicate(b"x")
"""
    assert python(namespaces, code) == ["True"] * 4
    if namespaces == "off":  # a namespace's kernel lets everybody of one Landlock domain look
        script = "cat /proc/$PPID/environ; cat /proc/$PPID/cmdline | head -c 8"
        result = sh(namespaces, f"MARK=secret /bin/sh -c 'sh -c \"{script.replace('$', chr(92) + '$')}\"; true'")
        assert b"MARK" not in result.stdout
        assert result.stdout.startswith(b"/bin/sh"), result


def test_asking_all_the_time_holds_nobody_up(namespaces: str) -> None:
    """INF-12: a flood of sysinfo and loadavg by a tree of many processes leaves the supervisor time for others."""
    flood = f"""{SYSINFO}
import os
for _ in range(60):
    if os.fork() == 0: os.read(0, 1); os._exit(0)
while True: ctypes.CDLL(None).sysinfo(content); open("/proc/loadavg").read()
"""
    with box(namespaces, max_memory="1G").popen(["/usr/bin/python3", "-c", flood], stdin=PIPE) as running:
        time.sleep(0.5)
        started = time.monotonic()
        assert python(namespaces, f"{SYSINFO}print(told[4])", max_memory="64M") == [str(64 << 20)]
        assert time.monotonic() - started < 20
        running.kill()
