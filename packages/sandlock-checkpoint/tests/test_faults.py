"""Whatever fails while a process is saved or restored: nothing is lost, and nothing is left over."""

from __future__ import annotations

import errno
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from process_lab import Lab, Running, die_at, in_child, wait_until

from sandlock_checkpoint import (
    CaptureError,
    Checkpoint,
    ImageError,
    Leave,
    RestoreError,
    capture,
    image,
    load,
    restore,
)
from sandlock_checkpoint.restore import drive
from sandlock_sys import procmem, ptrace
from sandlock_sys.errors import SyscallError

pytestmark = pytest.mark.needs("ptrace")

COUNTS = """
import sys, time
block = bytearray(b"x" * (4 << 20))
number = 0
while True:
    print(number, len(block), flush=True)
    number += 1
    time.sleep(0.01)
"""


@pytest.fixture
def running(lab: Lab) -> Running:
    running = lab.python(COUNTS)
    running.wait_for("\n3 ")
    return running


def runs_on(running: Running) -> bool:
    """Wait until it has counted further, and tell whether it never left out a number."""
    seen = len(running.lines())
    wait_until(lambda: len(running.lines()) > seen + 2 or running.process.poll() is not None, "three more numbers")
    numbers = [int(line.split()[0]) for line in running.text().splitlines()[:-1]]
    return running.process.poll() is None and numbers == list(range(len(numbers)))


REQUESTS = ("seize", "interrupt", "cont", "to_syscall", "detach", "get_regset", "set_regset", "get_signal_mask",
            "set_signal_mask", "get_siginfo", "poke", "peek")  # fmt: skip


@pytest.mark.parametrize("after", [0, 1, 2, 3, 8, 20])
@pytest.mark.parametrize("waits", [True, False])
def test_where_ptrace_fails_on_every_call_that_is_said_and_the_target_runs_on(
    running: Running, monkeypatch: pytest.MonkeyPatch, after: int, waits: bool
) -> None:
    """Nothing lets it go then but the end of the thread that holds it, which the error says."""
    count = [0]

    def failing(name: str) -> None:
        real = getattr(ptrace, name)

        def request(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] > after:
                raise SyscallError(f"ptrace {name}", BROKEN)
            return real(*arguments, **named)

        monkeypatch.setattr(ptrace, name, request)

    for name in (*REQUESTS, *(() if waits else ("wait",))):
        failing(name)
    errors: list[BaseException] = []

    def save() -> None:
        try:
            capture(running.pid).close()
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    monkeypatch.undo()
    assert [type(error) for error in errors] == [CaptureError]
    # In the middle of a call that it was made to make, nobody is left who could put its registers back.
    assert runs_on(running) or (after > 1 and running.process.poll() is not None)


FULL, BROKEN = errno.ENOSPC, errno.EIO


@pytest.mark.parametrize(
    ("call", "code"), [("pwrite", FULL), ("fsync", BROKEN), ("mkdir", FULL), ("ftruncate", BROKEN), ("rename", BROKEN)]
)
@pytest.mark.parametrize("leave", [Leave.RUNNING, Leave.KILLED], ids=lambda leave: leave.value)
def test_who_could_not_be_saved_runs_on(
    lab: Lab, running: Running, monkeypatch: pytest.MonkeyPatch, leave: Leave, call: str, code: int
) -> None:
    """Also who was to be killed: it is the only one of its kind as long as there is no image."""
    capture(running.pid).save(lab.folder / "image")
    before = (lab.folder / "image" / "meta.json").read_bytes()

    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if call == "rename":
            patch.setattr("sandlock_sys.rename.exchange", fail)
        else:
            patch.setattr(os, call, fail)
        with pytest.raises(ImageError, match=os.strerror(code)):
            capture(running.pid, leave=leave).save(lab.folder / "image")
    assert runs_on(running)
    assert sorted(name for name in os.listdir(lab.folder) if "image" in name) == ["image"]
    assert (lab.folder / "image" / "meta.json").read_bytes() == before


def test_a_full_file_system_of_its_own(lab: Lab, running: Running) -> None:
    """The same with a limit of the kernel's: a file may not become as large as the image's."""
    import resource

    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            capture(running.pid, leave=Leave.KILLED).save(lab.folder / "image")
        except ImageError as error:
            os._exit(0 if os.strerror(errno.EFBIG) in str(error) else 1)
        except BaseException:  # noqa: BLE001 - the parent sees that it was another
            os._exit(2)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert runs_on(running)
    assert not (lab.folder / "image").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ValueError("the caller's")], ids=repr)
def test_a_caller_who_fails_kills_nobody(running: Running, error: BaseException) -> None:
    """Between the capture and the save stands the caller's own code."""
    with pytest.raises(type(error)), capture(running.pid, leave=Leave.KILLED):
        raise error
    assert runs_on(running)


def test_memory_that_cannot_be_read_ends_the_save_and_not_the_process(
    lab: Lab, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = procmem.read_ranges
    reads = [0]

    def fail(pid: int, ranges: Any, into: Any) -> procmem.Transfer:
        reads[0] += 1
        result = real(pid, ranges, into)
        return procmem.Transfer(result.done, procmem.Stop(0, 4711, errno.EIO)) if reads[0] > 3 else result

    checkpoint = capture(running.pid, leave=Leave.KILLED)
    with monkeypatch.context() as patch:
        patch.setattr(procmem, "read_ranges", fail)
        with pytest.raises(CaptureError, match=f"errno {errno.EIO}"):
            checkpoint.save(lab.folder / "image")
    assert runs_on(running)
    assert not (lab.folder / "image").exists()


SAVING_CALLS = ("open", "pwrite", "write", "fsync", "mkdir", "ftruncate", "unlink", "rmdir", "listdir")


def test_a_saver_that_is_killed_kills_nobody_before_the_image_is_there(lab: Lab, running: Running) -> None:
    """SIGKILL at many steps of a save of one who is to be killed: he runs on, or his image is whole."""

    def save_until(last: int) -> None:
        die_at(os, SAVING_CALLS, last)
        capture(running.pid, leave=Leave.KILLED).save(lab.folder / "image", threads=1)

    survived = 0
    for last in (1, 5, 20, 60, 100, 140, 170, 185, 200, 100_000):
        code = in_child(partial(save_until, last))
        if running.process.poll() is None:
            assert code == -signal.SIGKILL
            assert runs_on(running)
            survived += 1
            continue
        image.verify(lab.folder / "image")
        break
    assert survived > 3
    with load(lab.folder / "image") as checkpoint:
        restored = lab.restore(checkpoint)
    running.process.pid, running.process.returncode = restored.pid, None
    assert runs_on(running)


STEPS = ("seize", "interrupt", "cont", "to_syscall", "detach", "get_regset", "set_regset", "set_signal_mask", "wait")


def leftovers(program: str) -> list[int]:
    """Our processes of this program, and stubs of restores: another test's too, for as long as it runs."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                exe, owner = os.readlink(f"/proc/{name}/exe"), Path(f"/proc/{name}").stat().st_uid
            except OSError:
                continue
            if owner == os.geteuid() and ("memfd:sandlock-restore" in exe or is_of(int(name), program)):
                found.append(int(name))
    return found


def is_of(pid: int, program: str) -> bool:
    """Whether a process has this word among its arguments."""
    try:
        return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_restorer_that_is_killed_at_any_step_leaves_nothing(lab: Lab) -> None:
    """CK-14: half a process never runs. A whole one may, when the kill comes after its last step."""
    mark = str(lab.folder / "marked")
    running = lab.python(COUNTS, mark)
    running.wait_for("\n3 ")
    lab.take(running).close()

    def restore_until(last: int) -> None:
        die_at(ptrace, STEPS, last)
        restore(load(lab.folder / "image2"))

    last, died = 1, 0
    lines = len(running.lines())
    while (code := in_child(partial(restore_until, last))) == -signal.SIGKILL:
        died += 1
        wait_until(lambda: not leftovers(mark), f"the end of everything after step {last}: {leftovers(mark)}")
        assert len(running.lines()) == lines, f"it ran after step {last}"
        last = last + 1 if last < 4 else last * 5 // 4
    assert code == 0
    assert died > 15
    for pid in leftovers(mark):
        if is_of(pid, mark):
            os.kill(pid, signal.SIGKILL)


INSIDE = ("give_birth", "execute_program", "clear_space", "make_shared", "join_groups", "Filler", "give_numbers",
          "restore_settings", "make_threads", "prepare_thread", "arm_timers", "finish_thread")  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    lab = Lab(tmp_path_factory.mktemp("whole"))
    running = lab.python(
        "import mmap, time\nview = mmap.mmap(-1, 4096); view[0] = 1; print('ready')\ntime.sleep(60)", "whole-one"
    )
    running.wait_for("ready")
    checkpoint = lab.take(running)
    restored = restore(checkpoint)  # and with nothing that fails it is restored; the image's files are open now
    restored.kill()
    restored.wait()
    lab.close()
    return checkpoint


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()], ids=repr)
def test_a_restore_that_fails_inside_leaves_nothing(
    whole: Checkpoint, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(drive, name, fail)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises((type(error), RestoreError)) as caught:
        restore(whole)
    if isinstance(caught.value, RestoreError):
        assert "broken" in caught.value.reason
    # The first process of a namespace ends by itself, when it sees that the restored one has.
    wait_until(lambda: not leftovers("whole-one"), "the end of everything")
    assert set(os.listdir("/proc/self/fd")) == before
