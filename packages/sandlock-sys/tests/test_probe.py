"""The probe finds what is there, and leaves no trace of itself in the caller."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_sys import landlock, prctl, proc, seccomp, vdso
from sandlock_sys._buffers import own_memory
from sandlock_sys.constants.seccomp import Action, FilterFlag
from sandlock_sys.errors import SyscallError
from sandlock_sys.probe import Probe, State, probe

ALLOW = struct.pack("=HBBI", 6, 0, 0, Action.ALLOW)


def features(found: Probe) -> dict[str, State]:
    return {name: value.state for name in Probe.__slots__ if hasattr(value := getattr(found, name), "state")}


def test_masks_agree_with_the_bits_and_with_landlock_itself() -> None:
    found = probe()
    assert (found.landlock_abi, found.landlock_errata) == (landlock.abi_version(), landlock.errata())
    assert (found.landlock_fs, found.landlock_net, found.landlock_scopes) == landlock.usable()
    assert bool(found.landlock_bits["AccessFs.REFER"]) == bool(found.landlock_fs & 1 << 13)
    assert len(found.landlock_bits) == 17 + 4 + 2 + 4


def test_what_is_found_here_works_here(in_child: Any) -> None:
    found = probe()

    def restrict() -> None:
        prctl.set_no_new_privs()
        landlock.restrict_self(landlock.create_ruleset(1))

    def listen() -> None:
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(ALLOW, FilterFlag.NEW_LISTENER | FilterFlag.WAIT_KILLABLE_RECV)

    def unshare() -> None:
        subprocess.run(["unshare", "--user", "--mount", "--map-current-user", "true"], check=True)

    for feature, use in [
        (found.landlock_restrict_self, restrict),
        (found.seccomp_wait_killable_recv, listen),
        (found.mount_namespace, unshare),
    ]:
        if feature:
            in_child(use)
    assert found.kernel == os.uname().release
    assert {found.openat2.state, found.close_range.state, found.memfd_seals.state} == {State.AVAILABLE}


def surroundings(open_fds: Callable[[], set[int]]) -> dict[str, object]:
    """Everything of this process that a probe could disturb."""
    with open("/proc/self/mountinfo") as file:
        mounts = file.read()
    status = proc.read_status(os.getpid())
    return {
        "fds": open_fds(),
        "threads": proc.list_tasks(os.getpid()),
        "children": proc.read_children(os.getpid()),
        "mounts": mounts,
        "signals": (status.signals_blocked, status.signals_pending, status.signals_process_pending),
        "credentials": (status.uid, status.gid, status.cap_effective, status.no_new_privs, status.seccomp_filters),
        "dumpable": prctl.get_dumpable(),
        "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))],
        "cwd": os.getcwd(),
        "mappings": len(proc.read_maps(os.getpid())),
    }


def test_nothing_of_the_caller_changes(open_fds: Callable[[], set[int]]) -> None:
    seen: list[int] = []
    before_handler = signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    try:
        probe()
        before = surroundings(open_fds)
        for _ in range(20):
            probe()
        assert surroundings(open_fds) == before
        assert seen == []
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    finally:
        signal.signal(signal.SIGCHLD, before_handler)


def test_it_works_in_many_threads_at_once_while_others_run() -> None:
    expected = features(probe())
    results: list[dict[str, State]] = []
    counter = [0]
    leave = threading.Event()

    def busy() -> None:
        while not leave.is_set():
            counter[0] += 1

    threads = [threading.Thread(target=lambda: results.append(features(probe()))) for _ in range(8)]
    other = threading.Thread(target=busy)
    other.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leave.set()
    other.join()
    assert results == [expected] * 8


def test_a_full_fd_table_changes_no_finding(in_child: Any) -> None:
    def body() -> dict[str, State]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        opened = []
        try:
            while True:
                opened.append(os.dup(0))
        except OSError:
            found = features(probe())
        for fd in opened:
            os.close(fd)
        return found

    assert in_child(body) == features(probe())


def test_an_outer_filter_that_refuses_is_reported_as_a_refusal(in_child: Any, filter_for: Any) -> None:
    def body() -> Probe | tuple[object, ...]:
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(filter_for("landlock_create_ruleset", Action.ERRNO | errno.EPERM))
        seccomp.set_mode_filter(filter_for("userfaultfd", Action.ERRNO | errno.ENOSYS))
        found = probe()
        return (
            found.landlock_abi,
            int(found.landlock_fs),
            found.landlock_restrict_self.state,
            found.landlock_restrict_self.errno,
            found.userfaultfd.state,
            found.openat2.state,
            found.seccomp_filter.state,
            landlock.abi_version(),
        )

    assert in_child(body) == (
        0, 0, State.REFUSED, errno.EPERM, State.ABSENT, State.AVAILABLE, State.AVAILABLE, 0,
    )  # fmt: skip


@pytest.mark.parametrize("action", [Action.KILL_PROCESS, Action.KILL_THREAD, Action.TRAP])
def test_an_outer_filter_that_kills_is_found_and_survived(in_child: Any, filter_for: Any, action: int) -> None:
    free = features(probe())

    def body() -> dict[str, State]:
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(filter_for("userfaultfd", action))
        return features(probe())

    assert in_child(body) == free | {"userfaultfd": State.KILLED}


# Which findings a call that kills takes along: its own, and what cannot be tried without it.
DEADLY = {
    "openat2": {"openat2"},
    "memfd_create": {"memfd_seals", "memfd_noexec_seal"},
    "clone3": {"clone3"},
    "pidfd_open": {"pidfd_open", "pidfd_thread", "pidfd_getfd"},
    "pidfd_getfd": {"pidfd_getfd"},
    "process_vm_readv": {"process_vm_readv"},
    "ptrace": {"ptrace_seize"},
    "unshare": {"mount_namespace", "mount_setattr", "pid_namespace", "proc_mount", "overlay"},
    "mount": {"mount_namespace", "mount_setattr", "pid_namespace", "proc_mount", "overlay"},
    "mount_setattr": {"mount_setattr", "pid_namespace", "proc_mount", "overlay"},
    "landlock_create_ruleset": {"landlock_restrict_self"},
    "landlock_restrict_self": {"landlock_restrict_self"},
}


@pytest.mark.parametrize("call", DEADLY)
def test_a_deadly_call_spoils_only_what_depends_on_it_and_leaves_no_process(
    in_child: Any, filter_for: Any, call: str
) -> None:
    free = features(probe())

    def body() -> tuple[dict[str, State], tuple[int, ...]]:
        prctl.set_child_subreaper(True)  # orphans of the probe would come here
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(filter_for(call, Action.KILL_PROCESS))
        return features(probe()), proc.read_children(os.getpid())

    found, children = in_child(body)
    changed = {name for name in free if found[name] is not free[name]}
    assert {found[name] for name in changed} <= {State.KILLED, State.UNTRIED}
    assert changed <= DEADLY[call]
    assert children == ()


def test_an_outer_listener_is_said_to_be_busy(in_child: Any) -> None:
    def body() -> tuple[State, int, State]:
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(ALLOW, FilterFlag.NEW_LISTENER)
        found = probe()
        return found.seccomp_new_listener.state, found.seccomp_new_listener.errno, found.seccomp_addfd_send.state

    assert in_child(body) == (State.REFUSED, errno.EBUSY, State.UNTRIED)


def test_inside_a_landlock_domain_mounts_are_refused(in_child: Any) -> None:
    def body() -> tuple[bool, State, bool]:
        ruleset = landlock.create_ruleset(1 << 6)
        prctl.set_no_new_privs()
        landlock.restrict_self(ruleset)
        found = probe()
        return bool(found.landlock_restrict_self), found.mount_namespace.state, bool(found.user_namespace)

    nested, mounts, users = in_child(body)
    assert (nested, users) == (True, bool(probe().user_namespace))
    assert mounts in (State.REFUSED, State.UNTRIED)


def test_without_processes_left_it_says_so(in_child: Any) -> None:
    def body() -> str:
        os.setresuid(1001, 1001, 1001) if os.geteuid() == 0 else None
        prctl.set_capabilities(0, 0, 0)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            probe()
        except SyscallError as error:
            return f"{error.call} {errno.errorcode[error.errno]}"
        return "probed"

    assert in_child(body) == "clone EAGAIN"


def test_no_process_of_a_probe_is_left() -> None:
    probe()
    time.sleep(0.05)
    assert proc.read_children(os.getpid()) == ()


def test_the_probe_is_quick() -> None:
    # A bound against a wait that was forgotten (the target child's is 2 s), not a benchmark.
    started = time.monotonic()
    probe()
    assert time.monotonic() - started < 1


def test_the_vdso_has_the_clock_and_its_symbols_lie_inside() -> None:
    symbols = vdso.symbols()
    names = {symbol.name for symbol in symbols}
    assert names & {"__vdso_clock_gettime", "__kernel_clock_gettime"}
    mapping = next(mapping for mapping in proc.read_maps(os.getpid()) if mapping.name == b"[vdso]")
    assert vdso.address() == mapping.start
    assert all(symbol.offset > 0 and symbol.offset + symbol.size <= mapping.size for symbol in symbols)
    assert probe().vdso_symbols == symbols


IMAGE = own_memory(vdso.address(), 4096)


@given(st.data())
def test_a_damaged_image_is_a_value_error(data: st.DataObject) -> None:
    image = bytearray(IMAGE)
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, 1023))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        vdso.parse_symbols(bytes(image[: data.draw(st.integers(0, len(image)))]))


def test_the_probe_can_be_asked_from_a_fresh_interpreter() -> None:
    code = "from sandlock_sys.probe import probe; print(probe().landlock_abi)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == landlock.abi_version()
