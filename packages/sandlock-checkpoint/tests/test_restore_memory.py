"""Memory of every kind is the same after a restore: contents, sharing, protection, and the map itself."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from process_lab import Lab, Running, build

from sandlock_checkpoint import CaptureError, capture

pytestmark = pytest.mark.needs("ptrace")


def shape(pid: int) -> list[str]:
    """The map of a process, without the numbers of devices and inodes, which shared memory gets anew."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, prot, offset, _, _, *name = line.split(maxsplit=5)
        words = re.sub(r"^(/dev/zero|/memfd:\S*|.*\.gone) \(deleted\)$", "shared", name[0] if name else "")
        found.append(f"{span} {prot} {offset if words != 'shared' else ''} {words}")
    return found


@pytest.mark.parametrize("size", [64, 2048], ids=["64 MiB", "2 GiB"])
def test_memory_of_every_kind_is_the_same(lab: Lab, programs: Path, size: int) -> None:
    flag = lab.folder / "flag"
    running = lab.start([build(programs, "memory"), flag, lab.folder / "data", str(size)])
    running.wait_for("kept")
    before = shape(running.pid)
    with lab.take(running) as checkpoint:
        written = sum(run.length for area in checkpoint.processes[0].mappings for run in area.runs)
        assert written < 40 << 20  # what was never touched costs nothing
        restored = lab.restore(checkpoint)
    assert shape(restored.pid) == before
    flag.touch()
    assert lab.finish(restored) == 0
    first, second = running.lines()
    assert first == second
    assert " one 1 seals 6 brk 1 " in first


def test_one_image_is_restored_many_times_at_once(lab: Lab, programs: Path) -> None:
    """Private memory is each one's own; each has its own pid namespace where the ids are taken."""
    flag = lab.folder / "flag"
    running = lab.python(
        "import os, sys, time\n"
        "numbers = list(range(1000)); me = os.getpid(); print('ready')\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "assert os.getpid() == me and sum(numbers) == 499500\n"
        "os._exit(9)",
        str(flag),
    )
    running.wait_for("ready")
    with lab.take(running) as checkpoint:
        many = [lab.restore(checkpoint) for _ in range(20)]
    flag.touch()
    assert [lab.finish(restored) for restored in many] == [9] * 20


def refused_for(running: Running) -> list[str]:
    """The kinds that a program is not captured for, once it said `ready`; it runs on, to a good end."""
    running.wait_for("ready")
    with pytest.raises(CaptureError) as caught:
        capture(running.pid)
    assert running.process.wait(20) == 0
    return [one.kind for one in caught.value.unsupported]


def test_a_mapping_of_a_device_is_refused_by_name(lab: Lab) -> None:
    """System V shared memory outlives its users and cannot be made again under its key; the refusal names it."""
    running = lab.python(
        "import ctypes, time\n"
        "libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p\n"
        "key = libc.shmget(0, 4096, 0o1600); at = libc.shmat(key, None, 0); libc.shmctl(key, 0, None)\n"
        "ctypes.memset(at, 65, 4096); print('ready'); time.sleep(2)\n"
        "print(ctypes.string_at(at, 3))"
    )
    assert refused_for(running) == ["sysv_shm"]
    assert running.lines()[-1] == "b'AAA'"


def test_a_context_of_asynchronous_io_is_refused_by_name(lab: Lab) -> None:
    """CK-11: its pages could be copied, the kernel's side of it not; it was made a plain memfd once."""
    running = lab.python(
        "import ctypes, platform, time\n"
        "setup, destroy = (206, 207) if platform.machine() == 'x86_64' else (0, 1)\n"
        "libc, context = ctypes.CDLL(None), ctypes.c_ulong()\n"
        "assert libc.syscall(setup, 8, ctypes.byref(context)) == 0; print('ready'); time.sleep(1)\n"
        "print(libc.syscall(destroy, context))"
    )
    assert refused_for(running) == ["aio"]
    assert running.lines()[-1] == "0"


def test_registrations_for_barriers_are_there(lab: Lab) -> None:
    """membarrier(2) fails with EPERM in a process that has not registered; the registered one goes on calling it."""
    flag = lab.folder / "flag"
    running = lab.python(
        "import ctypes, os, platform, sys, time\n"
        "number, libc = 324 if platform.machine() == 'x86_64' else 283, ctypes.CDLL(None)\n"
        "assert libc.syscall(number, 8, 0, 0) == -1 and libc.syscall(number, 16, 0, 0) == 0; print('ready')\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "os._exit(libc.syscall(number, 8, 0, 0))",
        str(flag),
    )
    running.wait_for("ready")
    restored = lab.cycle(running)
    flag.touch()
    assert lab.finish(restored) == 0


def test_memory_that_an_outsider_shares_is_named(lab: Lab) -> None:
    """CK-11: each would have its own after a restore, and none would know. A file of its own is no such memory."""
    memory = os.memfd_create("common", 0)
    os.ftruncate(memory, 4096)
    source = (
        "import mmap, os, sys, time\nview = mmap.mmap(int(sys.argv[1]), 4096); os.close(int(sys.argv[1]))\n"
        "view[:4] = b'here'; print('ready', flush=True); time.sleep(60)"
    )
    one = lab.start([sys.executable, "-u", "-c", source, str(memory)], pass_fds=(memory,))
    two = lab.start([sys.executable, "-u", "-c", source, str(memory)], pass_fds=(memory,))
    for running in (one, two):
        running.wait_for("ready")
    os.close(memory)
    with pytest.raises(CaptureError) as caught:
        capture(one.pid)
    assert [(found.name, found.kind) for found in caught.value.unsupported] == [("shared:0", "shared_with_outsider")]
    two.process.kill()
    two.process.wait()
    with lab.take(one) as checkpoint:  # alone with it, it has it to itself
        restored = lab.restore(checkpoint)
    assert "/memfd:common" in Path(f"/proc/{restored.pid}/maps").read_text()
