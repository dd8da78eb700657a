"""Checkpoints for the tests of the image: made up, with one of everything, and memory that is made on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sandlock_checkpoint.memory import Area, FileIdentity, Location, Mapping, MappingKind, Run, SharedMemory
from sandlock_checkpoint.model import (
    Checkpoint,
    IntervalTimer,
    Layout,
    Limit,
    PosixTimer,
    ProcessInfo,
    Registers,
    RobustList,
    Rseq,
    Scheduling,
    SignalAction,
    SignalStack,
    ThreadState,
)
from sandlock_checkpoint.open_files import (
    Descriptor,
    EpollFile,
    EpollInterest,
    EventFile,
    ExternalFile,
    FileLock,
    LockKind,
    MemoryFile,
    NamedFile,
    OpenFile,
    PidFile,
    Pipe,
    PipeEnd,
    SignalFile,
    SocketEnd,
    SocketPair,
    TimerFile,
)
from sandlock_checkpoint.terms import Leave, Scope, Unsupported

PAGE = 4096
HEAP, STACK, LIB = 0x55550000000, 0x7FFF00000000, 0x7F0000000000


def page(area: Area, offset: int, salt: bytes = b"") -> bytes:
    """The contents of one page: every page is another one."""
    return hashlib.shake_128(b"%d:%d:%d" % (area[0], area[1], offset) + salt).digest(PAGE)


class MadeMemory:
    """A source whose every page is known from its place; `changes` replaces some."""

    def __init__(self, changes: dict[tuple[Area, int], bytes] | None = None) -> None:
        self.changes = changes or {}
        self.closed = 0
        self.read_bytes = 0

    def read(self, area: Area, runs: Sequence[Run], into: memoryview) -> None:
        assert not self.closed
        done = 0
        for offset, length in runs:
            for place in range(offset, offset + length, PAGE):
                into[done : done + PAGE] = self.changes.get((area, place)) or page(area, place)
                done += PAGE
        assert done == len(into)
        self.read_bytes += done

    def locate(self, area: Area, run: Run) -> Location | None:
        return None

    def close(self) -> None:
        self.closed += 1


def contents_of(checkpoint: Checkpoint) -> dict[tuple[Area, int], bytes]:
    """All pages that a checkpoint has."""
    from sandlock_checkpoint.image.save import areas_of

    found = {}
    for area, runs in areas_of(checkpoint):
        for offset, length in runs:
            buffer = bytearray(length)
            checkpoint.source.read(area, [Run(offset, length)], memoryview(buffer))
            found.update({(area, offset + at): bytes(buffer[at : at + PAGE]) for at in range(0, length, PAGE)})
    return found


def identity(path: bytes = b"/usr/lib/libc.so.6") -> FileIdentity:
    return FileIdentity(path, 2049, 77, 1 << 20, 1_700_000_000_123_456_789, 0o100755, "")


def thread(tid: int = 100) -> ThreadState:
    return ThreadState(
        tid=tid, name=b"wor\xffker",
        registers=(Registers("general", 1, bytes(range(216))), Registers("xstate", 0x202, b"x" * 64)),
        restart="again", syscall=-1, deadline_ns=5, signal_mask=1 << 63, pending=(bytes(128),),
        signal_stack=SignalStack(0, 2, 0), robust_list=RobustList(0x7F, 24), rseq=Rseq(0x7F00, 32, 0x53053053, 0),
        tid_address=0x7F01, scheduling=Scheduling(0, 0, -5, (0, 1)),
    )  # fmt: skip


def mappings(runs: tuple[Run, ...] = (Run(0, PAGE), Run(2 * PAGE, 3 * PAGE))) -> tuple[Mapping, ...]:
    return (
        Mapping(HEAP, HEAP + 16 * PAGE, MappingKind.ANONYMOUS, 3, False, 0, b"[heap]", flags=("rd", "wr"), runs=runs),
        Mapping(LIB, LIB + 4 * PAGE, MappingKind.FILE, 1, False, PAGE, b"/usr/lib/libc.so.6", file=identity(),
                runs=(Run(PAGE, PAGE),)),
        Mapping(LIB + 4 * PAGE, LIB + 8 * PAGE, MappingKind.SHARED, 3, True, 0, b"/memfd:x (deleted)", memory=0),
        Mapping(LIB + 9 * PAGE, LIB + 10 * PAGE, MappingKind.VVAR, 1, False, 0, b"[vvar]"),
        Mapping(STACK, STACK + PAGE, MappingKind.ANONYMOUS, 3, False, 0, b"[stack]", runs=(Run(0, PAGE),)),
        Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, MappingKind.VSYSCALL, 4, False, 0, b"[vsyscall]"),
    )  # fmt: skip


def process(pid: int = 100, parent: int = -1, **fields: object) -> ProcessInfo:
    made = ProcessInfo(
        pid=pid, parent=parent, process_group=pid, session=pid, exe=b"/usr/bin/pyth\xe9on", cwd=b"/tmp", root=b"/",
        umask=0o22, personality=0, dumpable=1, no_new_privs=True, child_subreaper=False, thp_disable=False,
        uid=(1000,) * 4, gid=(1000,) * 4, groups=(1000, 27), exit_signal=17,
        layout=Layout(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, b"\0\xff" * 8), mappings=mappings(),
        threads=(thread(pid), thread(pid + 1)),
        descriptors=(Descriptor(0, 0, False), Descriptor(5, 1, True)),
        actions=(SignalAction(2, 1 << 63, 0x04000000, 0x7F, (1 << 64) - 1),), pending=(),
        interval_timers=(IntervalTimer(0, 5, 6),), posix_timers=(PosixTimer(0, -6, 4, 14, -1, pid, 1, 2),),
        next_timer_id=-1, limits=(Limit(3, 8 << 20, (1 << 64) - 1),),
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]  # each test knows the field it changes


def sample(source: MadeMemory | None = None, **fields: object) -> Checkpoint:
    """A tree of two processes with one open file of every kind."""
    lock = FileLock(LockKind.POSIX, exclusive=True, start=0, end=-1, process=1)
    files = (
        OpenFile(0o2, NamedFile(identity(b"/dev/null"), 0, (lock,))), OpenFile(0, MemoryFile(0, 9)),
        OpenFile(0, PipeEnd(0, writing=True), owner=-100, signal=29), OpenFile(0, SocketEnd(0, 1)),
        OpenFile(0, EventFile((1 << 64) - 2, semaphore=True)), OpenFile(0, TimerFile(1, 2, 3, 4, 5)),
        OpenFile(0, SignalFile(1 << 63)), OpenFile(0, EpollFile(0, (EpollInterest(5, 1, 1, 1 << 63),))),
        OpenFile(0, PidFile(1)), OpenFile(0, ExternalFile("tty", b"/dev/pts/\xff")),
    )  # fmt: skip
    made = Checkpoint(
        name="a näme", architecture="x86_64", kernel="6.18 #1", page_size=PAGE, captured_ns=1, monotonic_ns=2,
        scope=Scope.TREE, leave=Leave.RUNNING, processes=(process(), process(200, 0, mappings=mappings()[:2])),
        files=files, shared=(SharedMemory(5 * PAGE - 7, (Run(PAGE, 4 * PAGE),), "memfd", b"x"),),
        pipes=(Pipe(65536, b"in \0the pipe"),), sockets=(SocketPair(1, ((b"one", b""), ()), options=(((16, 1),), ())),),
        vdso_digest="ab" * 32, unsupported=(Unsupported("fd:7", "tty", "a terminal"),), policy="[limits]\n",
        app_state=b"\x80state", cow=None, source=source or MadeMemory(),
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]  # likewise


def small() -> Checkpoint:
    """One process, one thread, two pages: an image of few bytes, to break each of them."""
    one = process(threads=(replace(thread(), registers=(Registers("general", 1, b"12345678"),)),),
                  mappings=(mappings()[0], mappings()[4]), descriptors=(Descriptor(0, 0, False),))  # fmt: skip
    return sample(
        scope=Scope.PROCESS, processes=(one,), files=(OpenFile(0, NamedFile(identity(b"/dev/null"), 0)),), shared=(),
        pipes=(), sockets=(), app_state=b"s",
    )  # fmt: skip


def big(size: int, source: MadeMemory | None = None, runs: tuple[Run, ...] = ()) -> Checkpoint:
    """One process with one mapping of `size` bytes."""
    one = Mapping(HEAP, HEAP + size, MappingKind.ANONYMOUS, 3, False, 0, b"[heap]", runs=runs or (Run(0, size),))
    process_of = process(threads=(thread(),), mappings=(one,), descriptors=())
    return replace(small(), processes=(process_of,), files=(), source=source or MadeMemory())


def files_below(path: Path) -> dict[str, bytes]:
    """Every file of an image, by its name."""
    return {
        os.path.relpath(os.path.join(folder, name), path): (Path(folder) / name).read_bytes()
        for folder, _, names in os.walk(path)
        for name in names
    }
