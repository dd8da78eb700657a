"""The guard of one sandbox: orders go to it, and its report says that nothing of the sandbox is left.

The guard program (`_csrc/guard_main.c`) is the parent and subreaper of every process of the sandbox. It outlives the
host process only to kill them: SIGKILL of the host, a closed control socket and the end of the first process all have
the same effect.
"""

from __future__ import annotations

import os
from errno import EAGAIN, ECHILD, ECONNRESET, EINVAL, EPIPE
from fcntl import F_ADD_SEALS, fcntl
from struct import Struct

from sandlock_sys._buffers import NULL
from sandlock_sys._call import check
from sandlock_sys._ffi import lib
from sandlock_sys.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_sys._ffi import CData
    from sandlock_sys.kept_network import KeptNetwork

__all__ = ["GUARD_PATH", "TAKEN", "Guard", "Report", "give_memory", "guard_program", "take_memory"]

GUARD_PATH = __file__.rpartition("/")[0] + "/_guard"
TAKEN = -2
"""In the place of a control socket that a `Guard` owns."""

_REPORT = Struct("=iIQQQ")  # struct sl_report
_KILL, _SIGNAL_ALL, _SIGNAL_MAIN = 1, 2, 3  # SL_ORDER_*
_SHUT_WR, _SHUT_RDWR = 1, 2  # shutdown(2)
_MEMFD_FLAGS = 0x1 | 0x2  # MFD_CLOEXEC | MFD_ALLOW_SEALING, linux/memfd.h, 3.17
_MFD_EXEC = 0x10  # linux/memfd.h, 6.3
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL | SHRINK | GROW | WRITE, linux/fcntl.h, 3.17
_SIGCONT = 18  # the same number on every architecture here; `signal` itself takes 6 ms to import


# Launch memory for the next launch: mapping it, touching its pages and unmapping it took a tenth of a launch. With the
# process it belongs to: after a fork the struct is in memory that parent and child share.
_spare: list[tuple[int, CData]] = []
_SPARES = 4


def take_memory() -> CData:
    """Return a `struct sl_spawn` for one launch, to be given back; NULL when there is no memory."""
    while _spare:
        try:
            owner, memory = _spare.pop()
        except IndexError:  # another thread took it
            break
        if owner == os.getpid():
            return memory
    return lib.sl_spawn_new()


def give_memory(memory: CData) -> None:
    """Take back what `take_memory` returned, whose guard and child have ended or never begun."""
    if len(_spare) < _SPARES:
        lib.sl_spawn_reuse(memory)
        _spare.append((os.getpid(), memory))
    else:
        lib.sl_spawn_free(memory)


_program: tuple[int, int, int] | None = None  # fd, device, inode


def guard_program() -> int:
    """Return the fd of a sealed copy of the guard program, made once for the process; OSError when it cannot be made.

    Safety: the guard executes it after the program inside has begun, which may have a write grant over the folder that
    sandlock is installed in; a copy that nobody can write is not reached by that. The number may be another file's by
    now, where the caller has closed all its fds since: so the copy is recognised by its inode.
    """
    global _program  # noqa: PLW0603  # one copy serves every launch
    if _program is not None:
        fd, device, inode = _program
        try:
            status = os.fstat(fd)
        except OSError:  # EBADF: closed
            status = None
        if status is not None and (status.st_dev, status.st_ino) == (device, inode):
            return fd
    with open(GUARD_PATH, "rb", buffering=0) as file:
        program = file.readall()
    fd = _sealed(program)
    status = os.fstat(fd)
    _program = (fd, status.st_dev, status.st_ino)
    return fd


def _sealed(program: bytes) -> int:
    try:
        fd = os.memfd_create("sandlock-guard", _MEMFD_FLAGS | _MFD_EXEC)
    except OSError as error:
        if error.errno != EINVAL:  # before 6.3 every memfd is executable, and nobody has to ask for it
            raise
        fd = os.memfd_create("sandlock-guard", _MEMFD_FLAGS)
    os.write(fd, program)
    fcntl(fd, F_ADD_SEALS, _ALL_SEALS)
    return fd


class Report:
    """What became of the sandbox.

    Attributes:
        status: wait status of the first process, for os.waitstatus_to_exitcode.
        reaped: how many processes ended as children of the guard; not its init, nor whose parent that is.
        user_us: user cpu time in microseconds of all that were waited for.
        system_us: system cpu time, likewise.
        peak_kib: largest resident size of a single process; 0 when it stayed below the host's own at the launch, which
            the kernel counts for the first process too, since it began in the host's memory.

    """

    __slots__ = ("peak_kib", "reaped", "status", "system_us", "user_us")

    def __init__(self, message: bytes) -> None:
        self.status, self.reaped, self.user_us, self.system_us, self.peak_kib = _REPORT.unpack(message)


class Guard:
    """The host's end: owns the control socket, the guard's pidfd and the memory that the launch was made in.

    Attributes:
        pid: the guard's process id.
        network: the network namespace to be given back when nothing of the sandbox is left, or None.

    """

    __slots__ = ("_control", "_held", "_memory", "_owner", "_pidfd", "_told", "network", "pid")

    def __init__(self, ends: CData, memory: CData, held: list[object]) -> None:
        """Take over `ends[0]`, the control socket, which is TAKEN then; no interrupt comes in between."""
        self._owner = os.getpid()
        self._control: int = ends[0]
        self._pidfd: int = memory.guard_pidfd
        self._memory: CData | None = memory
        self._held = held
        self.network: KeptNetwork | None = None
        self._told = False  # the report is here, so the guard needs no order to end
        self.pid: int = memory.guard_pid
        ends[0] = TAKEN

    def __del__(self) -> None:
        """Close what nobody closed: an interrupt can come between a launch and whoever would have kept it.

        A process that was forked from this one has a copy, which means nothing.
        """
        if getattr(self, "pid", 0) and self._pidfd >= 0 and self._owner == os.getpid():
            self.close()

    def fileno(self) -> int:
        """The guard's pidfd, borrowed: readable when the guard has ended, and so nothing of the sandbox is left.

        It stays open until `close`, and is -1 then.
        """
        return self._pidfd

    @property
    def memory(self) -> CData | None:
        """The launch's `struct sl_spawn`, or None when the guard has been waited for."""
        return self._memory

    def report_fileno(self) -> int:
        """The control socket, borrowed: readable when the report is there, a little before the guard has ended.

        -1 after `close`. A guard that was killed makes it readable too, or only `fileno()`, where a process that was
        forked during the launch holds the guard's end.
        """
        return self._control

    def report(self) -> Report | None:
        """Return the report, waiting for the guard's end where it has not told yet; None when it was killed before.

        With the report every process of the sandbox has ended, but for the guard itself, which `close` waits for. The
        wait is not bounded: poll `report_fileno()` or `fileno()` first to bound it.
        """
        message = self._receive()
        if not message:
            self._reap()
            message = self._receive()
        if len(message) != _REPORT.size:
            return None
        self._told = True
        return Report(message)

    def _receive(self) -> bytes:
        """Read the report; b"" when there is none."""
        for _ in range(2 if self._control >= 0 else 0):
            try:
                return os.read(self._control, _REPORT.size)
            except BlockingIOError:
                break
            except ConnectionResetError:
                # The guard ended with an order of ours unread. The kernel tells that first, once; the report is behind.
                continue
        return b""

    def kill(self) -> None:
        """Kill every process of the sandbox; the report follows."""
        try:
            self._order(_KILL, 0)
        except SyscallError as error:
            if error.errno != EAGAIN:
                raise
            lib.sl_guard_hang_up(self._control, _SHUT_WR)  # means the same, and needs no room in the queue
        self._wake()

    def signal_all(self, number: int) -> None:
        """Send signal `number` to every process of the sandbox."""
        self._order(_SIGNAL_ALL, number)

    def signal_main(self, number: int) -> None:
        """Send signal `number` to the first process, if it has not ended."""
        self._order(_SIGNAL_MAIN, number)

    def close(self) -> None:
        """Give everything up: what is left of the sandbox is killed, and the guard is waited for."""
        control, self._control = self._control, -1
        if control >= 0 and self._told:
            os.close(control)
        elif control >= 0:
            lib.sl_guard_hang_up(control, _SHUT_RDWR)
            os.close(control)
            self._wake()
        self._reap()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
        network, self.network = self.network, None
        if network is not None and self._told:  # without the report some process of the sandbox may still be there
            from sandlock_sys.kept_network import give_network  # lazy, and loaded by who made it

            give_network(network)

    def _wake(self) -> None:
        """Continue a guard that was stopped from outside, so that it hears its order."""
        if self._memory is not None:
            lib.sl_pidfd_send_signal(self._pidfd, _SIGCONT, NULL, 0)

    def _reap(self) -> None:
        if self._memory is None:
            return
        try:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except OSError as error:
            if error.errno != ECHILD:  # somebody else's wait() took the status, or SIGCHLD is ignored: it is gone
                raise
        # Safety: the guard has ended, and with it the child, so nobody stands on the stacks there and nobody reads
        # the strings that `_held` keeps alive.
        memory, self._memory = self._memory, None
        give_memory(memory)
        self._held.clear()

    def _order(self, kind: int, number: int) -> None:
        try:
            check("sendto", lib.sl_guard_order(self._control, kind, number))
        except SyscallError as error:
            if error.errno not in (EPIPE, ECONNRESET):  # it has ended, and with it everything in the sandbox
                raise
