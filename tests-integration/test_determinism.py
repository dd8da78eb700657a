"""The same seed, start and program give the same output; and what namespaces show is served where there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandlock import Result, Sandbox

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/localtime", "/dev/urandom"]
TELL = """
import os, random, time, hashlib, uuid
print(time.gmtime()[:5], time.strftime("%Y"))
print(os.urandom(8).hex(), random.random(), uuid.uuid4(), hash("text"))
print(open("/dev/urandom", "rb").read(8).hex())
print(os.listdir(os.environ["FOLDER"]))
started = time.monotonic(); time.sleep(0.05); print(time.monotonic() - started < 5)
print(hashlib.sha256(open(__file__, "rb").read()).hexdigest() if "__file__" in globals() else "")
"""


def told(folder: Path, **fields: Any) -> str:
    box = Sandbox(fs_readable=[*SYSTEM, str(folder)], env={"FOLDER": str(folder)}, **fields)
    result = box.run(["/usr/bin/python3", "-c", TELL], timeout=60)
    assert result.success, result
    return result.stdout.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = tmp_path / "names"
    names.mkdir()
    for name in ("b", "a", "z", "m", "0"):
        (names / name).touch()
    return names


def test_two_runs_tell_the_same_times_bytes_listings_and_hashes(folder: Path) -> None:
    fields: dict[str, Any] = {"random_seed": 7, "time_start": "2030-01-31T12:00:00Z", "deterministic_dirs": True}
    first = told(folder, **fields)
    assert first == told(folder, **fields)
    assert first.startswith("(2030, 1, 31, 12, 0) 2030\n")
    assert "['0', 'a', 'b', 'm', 'z']" in first
    other = told(folder, **{**fields, "random_seed": 8})
    assert other.split("\n")[1] != first.split("\n")[1]
    assert told(folder).split("\n")[1] != told(folder).split("\n")[1]  # without a seed nothing repeats


def test_commands_and_makefiles_see_the_shifted_clock(tmp_path: Path) -> None:
    script = "date -u +%Y-%m-%d; perl -e 'print 1900+(gmtime)[5], qq(\\n)'; sleep 0.1; timeout 5 sleep 0.1; date -u +%H"
    box = Sandbox(fs_readable=[*SYSTEM, "-/etc/alternatives", "/dev/null"], time_start="1999-12-31T23:30:00+00:00")
    assert box.run(["/bin/sh", "-c", script], timeout=30).stdout.decode().split() == ["1999-12-31", "1999", "23"]


def test_waits_with_deadlines_are_as_long_as_they_say() -> None:
    code = """
import threading, time
for wait in (lambda: time.sleep(0.2), lambda: threading.Event().wait(0.2)):
    started = time.monotonic(); wait(); print(round(time.monotonic() - started, 1))
lock = threading.Lock(); lock.acquire(); started = time.monotonic(); lock.acquire(timeout=0.2)
print(0.1 < time.monotonic() - started < 5)
"""
    box = Sandbox(fs_readable=SYSTEM, time_start="2099-01-01T00:00:00Z")
    lines = box.run(["/usr/bin/python3", "-c", code], timeout=60).stdout.decode().split()
    assert lines[-1] == "True"
    assert [0.1 <= float(line) < 5 for line in lines[:2]] == [True, True]


def off(script: str, **fields: Any) -> Result:
    return Sandbox(namespaces="off", **fields).run(["/bin/sh", "-c", script], timeout=30)


def test_inf_01_foreign_processes_are_absent_without_namespaces_too() -> None:
    outsider = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pid = outsider.pid
    script = f"""
ls /proc | grep -cx {pid}
for p in /proc/{pid} /proc/self/../{pid} /proc/thread-self/../../../{pid}/stat /proc/self/root/proc/{pid}; do
    test -e $p && echo there; cat $p/cmdline 2>/dev/null; ls -d $p 2>/dev/null; done
cat /proc/self/stat > /dev/null && echo own
sleep 5 & test -r /proc/$!/status && echo child
true
"""
    try:
        assert Path(f"/proc/{pid}/stat").read_bytes()
        result = off(script, fs_readable=[*SYSTEM, "/proc"], fs_writable=["/dev/null"])
        assert result.stdout.decode().split() == ["0", "own", "child"], result
    finally:
        outsider.kill()
        outsider.wait()


def test_the_name_and_the_processors_are_served_without_namespaces() -> None:
    script = "uname -n; cat /proc/sys/kernel/hostname; nproc; grep -c ^processor /proc/cpuinfo; cat $F"
    grants = [*SYSTEM, "/proc", "/sys/devices/system/cpu"]
    cpus = "/sys/devices/system/cpu/online"
    result = off(script, fs_readable=grants, name="box-8", num_cpus=3, env={"F": cpus})
    assert result.stdout.decode().split() == ["box-8", "box-8", "3", "3", "0-2"], result


def test_fs_01_a_denied_path_is_denied_by_every_name(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "open").write_text("open\n")
    os.link(tmp_path / "secret", tmp_path / "hard")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/inside").write_text("secret\n")
    script = f"""
cd {tmp_path}; cat open
for p in secret ./secret {tmp_path}/secret hard link d/inside d/../secret /proc/self/cwd/secret \
    /proc/self/root{tmp_path}/hard
do cat $p; cp $p copy; mv $p moved; ln $p again; chmod 777 $p; touch $p; echo x > $p; rm -f $p; test -e $p && echo seen
done; mv d e; cat e/inside; ls d; true
"""
    denied = [str(tmp_path / "secret"), str(tmp_path / "d")]
    box = Sandbox(fs_readable=[*SYSTEM, "/proc"], fs_writable=[str(tmp_path)], fs_denied=denied)
    result = box.run(["/bin/sh", "-c", script], timeout=60)
    assert result.stdout == b"open\n", result.stdout
    assert (tmp_path / "secret").read_text() == "secret\n"
    assert (tmp_path / "hard").read_text() == "secret\n"
    assert (tmp_path / "d/inside").read_text() == "secret\n"
    assert {denial.errno for denial in result.denials} == {13}


def test_a_path_is_denied_while_the_program_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")

    def decide(event: Any, context: Any) -> None:
        if event.argv_contains("now"):
            context.deny_path(str(tmp_path / "file"))
        if event.argv_contains("later"):
            context.allow_path(str(tmp_path / "file"))

    script = f"cat {tmp_path}/file; /bin/echo n''ow; cat {tmp_path}/file; /bin/echo la''ter; cat {tmp_path}/file"
    box = Sandbox(fs_readable=[*SYSTEM, str(tmp_path)], policy_fn=decide)
    result = box.run(["/bin/sh", "-c", script], timeout=60)
    assert result.stdout.decode().split() == ["content", "now", "later", "content"], result


def test_not_02_the_command_that_was_judged_is_the_one_that_runs(compile_c: Any) -> None:
    program = compile_c(r"""
#include <pthread.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/wait.h>
static char word[16] __attribute__((aligned(8))) = "good";
static void *flip(void *unused)
{
    for (;;) {
        for (int i = 0; i < 20000; i++)
            *(volatile int *)word = 0x646f6f67; /* good */
        for (int i = 0; i < 20000; i++)
            *(volatile int *)word = 0x6c697665; /* evil */
    }
    return unused;
}
int main(int argc, char **argv)
{
    pthread_t thread;
    pthread_create(&thread, 0, flip, 0);
    for (int i = 0; i < 150; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            char *words[] = {"/bin/echo", word, 0};
            execv(words[0], words);
            _exit(1);
        }
        waitpid(pid, 0, 0);
    }
    _exit(0);
}
""")

    def decide(event: Any, _: Any) -> bool:
        return bool(event.argv_contains("evil"))

    folder = os.path.dirname(program)
    code = [str(program)]
    bare = subprocess.run(code, capture_output=True, check=True).stdout
    assert b"evil" in bare  # the race is real
    result = Sandbox(fs_readable=[*SYSTEM, folder], policy_fn=decide).run(code, timeout=90)
    assert b"evil" not in result.stdout
    assert b"good" in result.stdout
