"""A terminal of its own for an interactive program, and the caller's, which passes what is typed and shown.

The program never holds the caller's terminal: it cannot change its modes, take its foreground or type into it. What it
writes is shown as it is, escape sequences included, as that of any program at a terminal.
"""

from __future__ import annotations

import os
import signal
import struct
import termios
import threading
import time
import tty
from contextlib import suppress
from errno import EAGAIN, EIO
from fcntl import ioctl
from select import POLLHUP, POLLIN, POLLOUT, poll
from stat import S_ISFIFO
from typing import TYPE_CHECKING

from sandlock_runtime.life import Deadline

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from sandlock_policy import Policy
    from sandlock_runtime.life import Life
    from sandlock_runtime.result import Result

__all__ = ["Terminal", "with_terminal"]

_CHUNK = 1 << 16
_END_OF_INPUT = b"\x04"  # VEOF in the modes that a new terminal has, termios(3)
_SIZE = struct.Struct("HHHH")  # struct winsize
_REST_MS = 500
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def with_terminal(policy: Policy) -> Policy:
    """Return the policy with /dev/tty granted: inside it is the terminal made here, whoever opens it."""
    return policy.replace(fs_writable=(*policy.fs_writable, "-/dev/tty"))


class Terminal:
    """A new pseudo-terminal between the caller's streams and one program.

    Give it to the launch as all three streams, then call `run`. Within the `with` block the caller's terminal passes
    every key on; it gets its modes back at the end, and before a SIGTERM, SIGHUP or SIGQUIT ends the caller.
    """

    for_session = True  # sandlock_runtime.streams: it becomes the terminal of the program's session

    def __init__(self, stdin: int = 0, stdout: int = 1) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._screen = _own_end(stdout)
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        self._shown = b""  # not yet taken by the caller's terminal
        self._typed = b""  # not yet taken by the program
        self._modes: list[object] | None = None
        self._old_signals: list[tuple[int, object]] = []
        self._ended_by = 0
        self._noted, self._note = os.pipe()
        os.set_blocking(self._note, False)
        os.set_blocking(self._noted, False)

    def fileno(self) -> int:
        """The program's side."""
        return self._slave

    def __enter__(self) -> Self:
        self._resize()
        if os.isatty(self._stdin):
            self._modes = termios.tcgetattr(self._stdin)
            termios.tcsetattr(self._slave, termios.TCSANOW, self._modes)  # type: ignore[arg-type]  # as read
            tty.setraw(self._stdin, termios.TCSADRAIN)  # what was typed before is the program's
        if threading.current_thread() is threading.main_thread():
            for number, handler in ((signal.SIGWINCH, self._note_size), *((one, self._note_end) for one in _ENDING)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._old_signals.append((number, signal.signal(number, handler)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_signals:
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        if self._modes is not None:
            # Not TCSADRAIN: a terminal that somebody has stopped drains when he likes.
            termios.tcsetattr(self._stdin, termios.TCSANOW, self._modes)  # type: ignore[arg-type]  # as read
        for fd in (self._master, self._slave, self._noted, self._note, self._screen):
            if fd >= 0:
                os.close(fd)
        if self._ended_by:
            os.kill(os.getpid(), self._ended_by)  # what the caller would have died of, now that all is restored

    def run(self, life: Life, policy: Policy) -> Result:
        """Pass on what is typed and shown until the program has ended, and return its result."""
        slave, self._slave = self._slave, -1
        os.close(slave)  # so that the end of the last program inside can be seen
        began_s = time.monotonic()
        clock = Deadline(life, policy.timeout, policy.grace)
        watch = poll()
        for fd in (life.fileno(), self._noted, self._stdin):
            watch.register(fd, POLLIN)
        ended, shown = False, True
        while not ended:
            wanted = POLLIN if shown and not self._shown else 0
            watch.register(self._master, wanted | (POLLOUT if self._typed else 0))
            if self._shown:
                watch.register(self._screen, POLLOUT)
            for fd, events in watch.poll(clock.left_ms()):
                if fd == life.fileno():
                    ended = True
                elif fd == self._noted:
                    self._act(life)
                elif fd == self._stdin:
                    if not self._read_typed(life):
                        watch.unregister(fd)
                elif events & (POLLIN | POLLHUP):
                    shown = self._show()
                if self._typed:
                    self._pass_typed()
            if not shown:  # nobody inside has the terminal open now; somebody may open it again, so look on
                shown = True
                life.wait(0.02)
            clock.act()
        late = policy.timeout is not None and time.monotonic() - began_s > policy.timeout
        self._show_rest(life, late=late)
        return life.finish()

    def _show_rest(self, life: Life, *, late: bool) -> None:
        """Show what is left; what the caller's terminal does not take is dropped where the program had to end."""
        watch = poll()
        watch.register(self._screen, POLLOUT)
        watch.register(self._noted, POLLIN)
        while self._shown or self._show():
            if not self._shown:
                continue
            ready = [fd for fd, _ in watch.poll(_REST_MS)]
            if self._noted in ready:
                self._act(life)
            if self._screen in ready:
                self._pass_shown()
            elif late or self._ended_by:
                return

    def _read_typed(self, life: Life) -> bool:
        """Take what was typed; at the end of the caller's input type that."""
        if len(self._typed) > _CHUNK:  # the program does not read: what is typed waits where it is
            life.wait(0.02)
            return True
        data = os.read(self._stdin, _CHUNK)
        self._typed += data or _END_OF_INPUT
        return bool(data)

    def _pass_typed(self) -> None:
        try:
            self._typed = self._typed[os.write(self._master, self._typed) :]
        except OSError as error:
            if error.errno != EAGAIN:
                raise

    def _show(self) -> bool:
        """Show what the program wrote; False when there is nothing now."""
        try:
            data = os.read(self._master, _CHUNK)
        except OSError as error:
            if error.errno in (EIO, EAGAIN):  # EIO: nobody has the other side open
                return False
            raise
        self._shown += data
        self._pass_shown()
        return bool(data)

    def _pass_shown(self) -> None:
        try:
            self._shown = self._shown[os.write(self._screen, self._shown) :]
        except BlockingIOError:
            return

    def _act(self, life: Life) -> None:
        try:
            os.read(self._noted, _CHUNK)
        except BlockingIOError:
            return
        self._resize()
        if self._ended_by:
            life.kill()

    def _resize(self) -> None:
        """Give the program's terminal the size of the caller's, where that has one; the kernel tells the program."""
        for fd in (self._stdin, self._stdout):
            if os.isatty(fd):
                size = ioctl(fd, termios.TIOCGWINSZ, bytes(_SIZE.size))
                ioctl(self._master, termios.TIOCSWINSZ, size)
                return
        ioctl(self._master, termios.TIOCSWINSZ, _SIZE.pack(24, 80, 0, 0))

    def _note_size(self, _number: int, _frame: object) -> None:
        os.write(self._note, b"s")

    def _note_end(self, number: int, _frame: object) -> None:
        self._ended_by = self._ended_by or number
        os.write(self._note, b"e")


def _own_end(fd: int) -> int:
    """Return an fd of the same terminal or pipe that does not block and whose flags nobody shares, or a plain copy.

    Who waits for a terminal that somebody has stopped, or for a pipe that nobody reads, sees no time limit pass.
    """
    if os.isatty(fd) or S_ISFIFO(os.fstat(fd).st_mode):
        with suppress(OSError):  # another user's terminal, or one of another mount namespace
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return os.dup(fd)
