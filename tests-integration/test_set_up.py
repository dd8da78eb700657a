"""What the fields of a policy make of the program's process, seen from inside, each beside a run without the field."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from sandlock import Policy, PolicyError, Sandbox, preset

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]
PYTHON = ["/usr/bin/python3", "-I", "-S", "-c"]
STACK = "for i in 1 2 3 4; do grep -m1 '\\[stack\\]' /proc/self/maps; done | cut -d- -f1 | sort -u | wc -l"
DENIED = """
import os, socket
def tell(call, *words):
    try:
        call(*words)
        print("served")
    except OSError as error:
        print(error.errno)
tell(os.getrandom, 1)
tell(socket.socket().connect, ("127.0.0.1", 1))
"""


def said(words: list[str], **fields: Any) -> str:
    fields = {"fs_readable": SYSTEM, **fields}
    result = Sandbox(**fields).run(words, timeout=30)
    assert result.success, result
    return result.stdout.decode().strip()


def sh(script: str, **fields: Any) -> str:
    return said(["/bin/sh", "-c", script], **fields)


def test_addresses_are_random_unless_the_policy_says_otherwise() -> None:
    proc = {"fs_readable": [*SYSTEM, "/proc"]}
    assert sh(STACK, no_randomize_memory=True, **proc) == "1"
    assert int(sh(STACK, **proc)) > 1


def test_huge_pages_are_off_where_the_policy_says_so() -> None:
    with open("/proc/self/status") as status:
        if "THP_enabled" not in status.read():
            pytest.skip("this kernel does not tell")
    look, proc = "grep -c 'THP_enabled:.*1' /proc/self/status || true", {"fs_readable": [*SYSTEM, "/proc"]}
    bare = subprocess.run(["/bin/sh", "-c", look], capture_output=True, text=True, check=True).stdout.strip()
    assert (sh(look, no_huge_pages=True, **proc), sh(look, **proc)) == ("0", bare)


def test_cores_are_the_named_ones_and_limits_are_the_given_ones() -> None:
    core = max(os.sched_getaffinity(0))
    look = "import os, resource as r; print(*os.sched_getaffinity(0), r.getrlimit(r.RLIMIT_NOFILE))"
    assert said([*PYTHON, look], cpu_cores=[core], max_open_files=32) == f"{core} (32, 32)"
    everything = len(os.sched_getaffinity(0))
    assert said([*PYTHON, "import os; print(len(os.sched_getaffinity(0)))"]) == str(everything)


def test_core_dumps_are_off_by_default_and_cannot_be_switched_on() -> None:
    look = "import resource as r; print(*r.getrlimit(r.RLIMIT_CORE))"
    bare = subprocess.run([*PYTHON, look], capture_output=True, text=True, check=True).stdout.strip()
    # 1 and not 0: only that keeps the kernel from starting a handler of core dumps (core(5), core_pattern with a pipe).
    assert (said([*PYTHON, look]), said([*PYTHON, look], no_coredump=False)) == ("1 1", bare)


def test_a_name_that_is_served_may_be_denied_too() -> None:
    served = {"random_seed": 7, "net_allow": ["127.0.0.1:1"]}
    asked = said([*PYTHON, DENIED], **served)
    assert asked.split() == ["served", "111"]  # ECONNREFUSED: nobody is there
    assert said([*PYTHON, DENIED], extra_deny_syscalls=["getrandom", "connect"], **served).split() == ["1", "1"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_memory", "1G"), ("max_processes", 8), ("time_start", "2001-01-01T00:00:00Z"), ("random_seed", 1),
        ("deterministic_dirs", True), ("net_allow", ["192.0.2.1"]), ("fs_denied", ["/usr/games"]),
        ("http_allow", ["GET a.example/*"]),
    ],
)  # fmt: skip
def test_without_a_supervisor_what_needs_one_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(PolicyError, match="needs the supervisor") as caught:
        said(["/bin/true"], supervisor=False, **{field: value})
    assert field in str(caught.value) or "network.allow" in str(caught.value)


def test_a_supervisor_without_a_proc_of_its_own_is_refused_in_words() -> None:
    """Inside another sandbox, which grants no /proc; with it the inner one runs."""
    code = (
        "from sandlock_policy import preset\n"
        "from sandlock_runtime import ConfinementError, Sandbox\n"
        "try: print(Sandbox(preset('default'), max_memory='1G').run(['echo', 'inner']).stdout)\n"
        "except ConfinementError as error: print(error.step, error)\n"
    )
    folders = [path for path in sys.path if os.path.isdir(path)]
    readable = [*preset("python").fs_readable, *folders, sys.prefix]
    outer = preset("python").replace(fs_readable=readable, env={"PYTHONPATH": os.pathsep.join(folders)})
    refused = Sandbox(outer).run([sys.executable, "-c", code], timeout=60)
    assert refused.stdout.startswith(b"proc the sandbox could not be set up: proc: /proc is needed"), refused
    assert b"(-r /proc)" in refused.stdout
    granted = Sandbox(outer.merge(Policy(fs_readable=["/proc"]))).run([sys.executable, "-c", code], timeout=60)
    assert granted.stdout == b"b'inner\\n'\n", granted
