"""What a thread says about itself is what the kernel then tells."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Any

import pytest

from sandlock_sys import prctl, proc
from sandlock_sys.constants.capability import Capability
from sandlock_sys.constants.prctl import Personality, TimeStampCounter
from sandlock_sys.errors import SyscallError


def test_settings_round_trip_and_reach_the_kernel(in_child: Any) -> None:
    def body() -> dict[str, Any]:
        before = {
            "nnp": prctl.get_no_new_privs(),
            "signal": prctl.get_parent_death_signal(),
            "subreaper": prctl.get_child_subreaper(),
            "thp": prctl.get_thp_disable(),
        }
        prctl.set_no_new_privs()
        prctl.set_dumpable(0)
        prctl.set_parent_death_signal(signal.SIGKILL)
        prctl.set_child_subreaper(True)
        prctl.set_name(b"a \n)\xff(")
        prctl.set_thp_disable(True)
        after = {
            "nnp": prctl.get_no_new_privs(),
            "signal": prctl.get_parent_death_signal(),
            "subreaper": prctl.get_child_subreaper(),
            "thp": prctl.get_thp_disable(),
        }
        values = prctl.get_dumpable(), prctl.get_name()
        prctl.set_dumpable(1)
        prctl.set_child_subreaper(False)
        prctl.set_thp_disable(False)
        with open("/proc/self/status", "rb") as status_file:
            status = status_file.read()
        return {
            "before": before,
            "after": after,
            "values": values,
            "undone": (prctl.get_dumpable(), prctl.get_child_subreaper(), prctl.get_thp_disable()),
            "kernel": b"NoNewPrivs:\t1\n" in status,
        }

    result = in_child(body)
    assert result["before"] == {"nnp": False, "signal": 0, "subreaper": False, "thp": False}
    assert result["after"] == {"nnp": True, "signal": signal.SIGKILL, "subreaper": True, "thp": True}
    assert result["values"] == (0, b"a \n)\xff(")
    assert result["undone"] == (1, False, False)
    assert result["kernel"] is True


@pytest.mark.parametrize("name", [b"x" * 16, b"a\0b"])
def test_a_name_that_the_kernel_would_cut_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="15 bytes"):
        prctl.set_name(name)


def test_the_parents_death_reaches_the_child(child: Any) -> None:
    reader, writer = os.pipe()

    def body() -> None:
        grandchild = os.fork()
        if grandchild == 0:
            prctl.set_parent_death_signal(signal.SIGKILL)
            os.write(writer, b"%d" % os.getpid())
            time.sleep(60)
        time.sleep(60)

    with child(body) as pid:
        grandchild = int(os.read(reader, 20))
        os.close(writer)
        os.kill(pid, signal.SIGKILL)
        assert os.read(reader, 1) == b""  # the last writer is gone
        os.close(reader)
        # Gone, or a zombie where nobody reaps.
        deadline = time.monotonic() + 5
        while running(grandchild):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return proc.read_stat(pid).state != "Z"
    except SyscallError:
        return False


@pytest.mark.needs("x86_64")
def test_the_time_stamp_counter_can_be_forbidden(in_child: Any) -> None:
    def body() -> tuple[int, int]:
        before = prctl.get_tsc()
        prctl.set_tsc(TimeStampCounter.SIGSEGV)
        after = prctl.get_tsc()
        prctl.set_tsc(TimeStampCounter.ENABLE)  # before the interpreter's next clock_gettime
        return before, after

    assert in_child(body) == (TimeStampCounter.ENABLE, TimeStampCounter.SIGSEGV)


def test_capabilities_are_dropped_for_good(in_child: Any) -> None:
    def body() -> tuple[Any, Any, int]:
        first = prctl.get_capabilities()
        prctl.clear_ambient()
        prctl.set_capabilities(0, 0, 0)
        try:
            prctl.set_capabilities(1, 1, 0)
        except SyscallError as error:
            return first, prctl.get_capabilities(), error.errno
        return first, prctl.get_capabilities(), 0

    first, after, refused = in_child(body)
    assert after == (0, 0, 0)
    assert refused == errno.EPERM
    assert prctl.get_capabilities() == prctl.get_capabilities(os.getpid()) == first
    with open("/proc/self/status") as file:
        assert f"CapEff:\t{first[0]:016x}\n" in file.read()


def test_the_bounding_set_is_read_and_dropped_where_allowed(in_child: Any) -> None:
    def body() -> tuple[bool, int, bool]:
        before = prctl.has_bounding(Capability.CHOWN)
        try:
            prctl.drop_bounding(Capability.CHOWN)
        except SyscallError as error:
            return before, error.errno, prctl.has_bounding(Capability.CHOWN)
        return before, 0, prctl.has_bounding(Capability.CHOWN)

    may = bool(prctl.get_capabilities()[0] >> Capability.SETPCAP & 1)
    assert in_child(body) == ((True, 0, False) if may else (True, errno.EPERM, True))
    with pytest.raises(SyscallError) as caught:
        prctl.has_bounding(63)
    assert caught.value.errno == errno.EINVAL


def test_the_personality_is_read_and_set(in_child: Any) -> None:
    def body() -> tuple[int, int]:
        before = prctl.set_personality(prctl.get_personality() | Personality.ADDR_NO_RANDOMIZE)
        return before, prctl.get_personality()

    before = prctl.get_personality()
    assert in_child(body) == (before, before | Personality.ADDR_NO_RANDOMIZE)
    assert prctl.get_personality() == before
