"""`Process`: a running confined program, in the manner of `subprocess.Popen`."""

from __future__ import annotations

import os

from sandlock_runtime.errors import NotRunningError
from sandlock_runtime.life import Patience

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import BinaryIO, Self

    from sandlock_runtime.life import Life
    from sandlock_runtime.result import Result

__all__ = ["Process"]


class Process:
    """A confined program that runs. The whole tree ends with it, and with the `with` block.

    Attributes:
        pid: process id of the program, for messages; signals go through the methods here, which cannot hit another
            process that got the same number.

    """

    def __init__(self, life: Life, ended: Callable[[], None]) -> None:
        self._life = life
        self._ended = ended
        self._files: list[BinaryIO | None] = [None, None, None]
        self._result: Result | None = None
        self._heads = [b"", b"", b""]  # what was read ahead before `communicate` took over
        self.pid = life.pid

    @property
    def stdin(self) -> BinaryIO | None:
        """The program's standard input where that is a pipe; closing it is the end of the input."""
        return self._file(0)

    @property
    def stdout(self) -> BinaryIO | None:
        """The program's standard output where that is a pipe."""
        return self._file(1)

    @property
    def stderr(self) -> BinaryIO | None:
        """The program's standard error where that is a pipe."""
        return self._file(2)

    def _file(self, number: int) -> BinaryIO | None:
        if self._files[number] is None:
            fd = self._life.streams.take(number)
            if fd >= 0:
                self._files[number] = os.fdopen(fd, "wb" if number == 0 else "rb")
        return self._files[number]

    def poll(self) -> Result | None:
        """Return the result if nothing of the sandbox is left, else None."""
        return self._finish() if self._life.ended else None

    def wait(self, timeout: float | None = None) -> Result:
        """Wait until nothing of the sandbox is left, and return the result.

        Pipes are not drained meanwhile: use `communicate` where the program writes more than a pipe holds (64 KiB).

        Raises:
            TimeoutError: `timeout` seconds passed; the program runs on.

        """
        if not self._life.wait(timeout):
            raise TimeoutError(f"the program is still running after {timeout} s")
        return self._finish()

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:  # noqa: A002
        """Feed `input`, drain the pipes until the end, and return stdout and stderr.

        Raises:
            TimeoutError: `timeout` seconds passed; the program runs on, and another call goes on with the same data.
            ValueError: there is `input`, and stdin is not a pipe.

        """
        for number in range(3):
            self._heads[number] += self._give_back(number)
        if input and self._life.streams.parent[0] < 0:
            raise ValueError("there is input, and stdin is not a pipe: popen(..., stdin=PIPE)")
        self._life.attach(input or b"")
        if not self._life.exchange(Patience(timeout)):
            raise TimeoutError(f"the program is still running after {timeout} s")
        result = self._finish()
        return self._heads[1] + result.stdout, self._heads[2] + result.stderr

    def _give_back(self, number: int) -> bytes:
        """Return a stream to the life, and what its file object had read ahead."""
        file, self._files[number] = self._files[number], None
        if file is None or file.closed:
            return b""
        ahead = b""
        if number == 0:
            _push(file.flush)
        fd = os.dup(file.fileno())
        if number != 0:
            os.set_blocking(fd, False)  # so that looking at the buffer cannot wait for more
            ahead = file.peek()  # type: ignore[attr-defined]  # it is a BufferedReader
            file.read1(len(ahead)) if ahead else None  # type: ignore[attr-defined]
        _push(file.close)
        self._life.streams.parent[number] = fd
        return ahead

    def ports(self) -> dict[int, int]:
        """Return the ports that the program has bound now, and the real one of each; see `Sandbox.ports`."""
        return self._life.ports()

    def kill(self) -> None:
        """Kill every process of the sandbox; no error when it has ended.

        While anything of it was left, the result is KILLED and no success, however the program ended meanwhile.
        """
        self._life.kill()

    def terminate(self) -> None:
        """Send SIGTERM to the program."""
        self.send_signal(15)

    def send_signal(self, number: int) -> None:
        """Send signal `number` to the program; no error when it has ended."""
        try:
            self._life.signal(number)
        except NotRunningError:
            return  # as subprocess does: it is what the caller wanted to bring about

    def _finish(self) -> Result:
        if self._result is None:
            # Whoever has not asked for the output yet may do so after the end.
            stdin, _, _ = (self._file(number) for number in range(3))
            if stdin is not None:
                _push(stdin.close)
            self._result = self._life.finish()
            self._ended()
        return self._result

    def __enter__(self) -> Self:
        """Return the process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Kill what is left and free everything, the pipes too.

        The result of a program that has ended by itself before that says so; after `kill` it does not.
        """
        self._life.close()
        try:
            self._finish()
        finally:
            for file in self._files:
                if file is not None:
                    _push(file.close)


def _push(flush_or_close: Callable[[], object]) -> None:
    """Flush or close a file; what the program does not read any more is dropped, as `run` does with its input."""
    try:
        flush_or_close()
    except BrokenPipeError:
        return
