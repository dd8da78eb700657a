"""Start programs, capture them, kill them, restore them, and see how they go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandlock_checkpoint import Checkpoint, Leave, Restored, Scope, capture, load, restore
from sandlock_sys import ptrace

__all__ = [
    "PROGRAMS",
    "Lab",
    "Running",
    "build",
    "capture_until",
    "die_at",
    "in_child",
    "lab_folder",
    "state_of",
    "wait_until",
]

PROGRAMS = Path(__file__).parent / "programs"
_PATIENCE_S = 30.0
_STEPS = [
    "seize", "interrupt", "cont", "to_syscall", "detach", "get_regset", "set_regset", "get_signal_mask",
    "set_signal_mask", "get_siginfo", "peek_signals", "get_rseq_configuration", "wait",
]  # fmt: skip


def wait_until(ready: Callable[[], bool], what: str, patience_s: float = _PATIENCE_S) -> None:
    """Wait for a condition; fail with `what` when it does not come."""
    deadline = time.monotonic() + patience_s
    while not ready():
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        time.sleep(0.005)


def state_of(pid: int) -> str:
    """The letter of a process's state, as in proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def build(folder: Path, name: str, *flags: str) -> Path:
    """Compile tests/programs/NAME.c, by default as a dynamic executable."""
    program = folder / f"{name}{''.join(flags)}".replace("=", "_")
    if not program.exists():
        command = ["cc", "-std=gnu11", "-O1", "-Wall", "-pthread", *flags, "-o", str(program)]
        done = subprocess.run(
            [*command, str(PROGRAMS / f"{name}.c"), "-lm", "-lrt"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return program


def die_at(module: Any, names: Iterable[str], last: int) -> None:
    """Let this process die by SIGKILL right after call number `last` of these functions of `module`."""
    count = [0]

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            count[0] += 1
            if count[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return step

    for name in names:
        setattr(module, name, counting(getattr(module, name)))


def capture_until(pid: int, last: int) -> None:
    """Capture, and die by SIGKILL right after ptrace step number `last`."""
    die_at(ptrace, _STEPS, last)
    capture(pid).close()


def in_child(action: Callable[[], object]) -> int:
    """Run it in a child; its exit code, 0 when it came to its end."""
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException:  # noqa: BLE001 - the parent sees that it failed
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def lab_folder() -> Iterator[Path]:
    """A folder for programs and outputs."""
    with tempfile.TemporaryDirectory(prefix="sandlock-lab-") as name:
        yield Path(name)


@dataclass
class Running:
    """A program that runs, its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return self.output.read_text()

    def lines(self) -> list[str]:
        return self.text().splitlines()

    def wait_for(self, text: str) -> None:
        """Wait until the output has `text` in it."""
        wait_until(
            lambda: text in self.text() or self.process.poll() is not None,
            f"{text!r} in {self.output}: {self.text()!r}",
        )
        assert text in self.text(), f"it ended with {self.process.returncode}: {self.text()!r}"


@dataclass
class Lab:
    """Where programs are started, captured and restored; whatever is left at the end is killed.

    Attributes:
        folder: for outputs and images.

    """

    folder: Path
    _running: list[Running] = field(default_factory=list)
    _restored: list[Restored] = field(default_factory=list)
    _count: int = 0

    def start(self, command: Sequence[str | Path], **options: object) -> Running:
        """Start a program with its output in a new file, and nothing to read."""
        self._count += 1
        output = self.folder / f"output{self._count}"
        with output.open("wb", buffering=0) as file:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                **options,  # type: ignore[call-overload]
            )
        running = Running(process, output)
        self._running.append(running)
        return running

    def python(self, source: str, *arguments: str) -> Running:
        """Start this interpreter with a program."""
        return self.start([sys.executable, "-u", "-c", source, *arguments])

    def take(
        self,
        running: Running,
        *,
        scope: Scope = Scope.PROCESS,
        allow: AbstractSet[str] = frozenset(),
        leave: Leave = Leave.KILLED,
    ) -> Checkpoint:
        """Capture a program into an image, kill it, and return the image, loaded."""
        checkpoint = self.keep(running.pid, scope=scope, allow=allow, leave=leave)
        if leave is Leave.KILLED:
            assert running.process.wait(_PATIENCE_S) == -signal.SIGKILL
        return checkpoint

    def keep(
        self,
        pid: int,
        *,
        scope: Scope = Scope.PROCESS,
        allow: AbstractSet[str] = frozenset(),
        leave: Leave = Leave.KILLED,
    ) -> Checkpoint:
        """Capture any process into an image, and return the image, loaded."""
        self._count += 1
        image = self.folder / f"image{self._count}"
        with capture(pid, scope=scope, allow=allow, leave=leave) as checkpoint:
            checkpoint.save(image)
        return load(image)

    def restore(
        self,
        checkpoint: Checkpoint,
        *,
        allow: AbstractSet[str] = frozenset(),
        descriptors: Mapping[int, int] | None = None,
        lazy: bool = False,
    ) -> Restored:
        """Restore, and remember to kill."""
        restored = restore(checkpoint, allow=allow, descriptors=descriptors, lazy=lazy)
        self._restored.append(restored)
        return restored

    def cycle(self, running: Running) -> Restored:
        """Capture, kill and restore."""
        with self.take(running) as checkpoint:
            return self.restore(checkpoint)

    def finish(self, restored: Restored, patience_s: float = _PATIENCE_S) -> int:
        """Wait for a restored program; return its exit code, negative for a signal."""
        status: list[int] = []

        def ended() -> bool:
            pid, code = os.waitpid(restored.pid, os.WNOHANG)
            if pid:
                status.append(code)
            return bool(pid)

        wait_until(ended, f"the end of restored process {restored.pid}", patience_s)
        if restored in self._restored:
            self._restored.remove(restored)
        return os.waitstatus_to_exitcode(status[0])

    def close(self) -> None:
        """Kill whatever still runs."""
        for running in self._running:
            running.process.kill()
            running.process.wait()
        for restored in self._restored:
            restored.kill()
            with contextlib.suppress(ChildProcessError):
                restored.wait()
