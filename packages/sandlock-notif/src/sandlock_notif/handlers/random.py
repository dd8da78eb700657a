"""random_seed: one ChaCha20 stream for all processes of a sandbox, so that a run can be repeated byte by byte.

It is taken from in the order in which it is asked: a program that runs as it did before gets what it got before.
Covered are getrandom (as a call; in the vDSO it is made to call), the 16 bytes that each new image finds (AT_RANDOM),
/dev/random and /dev/urandom, and the identifiers of /proc/sys/kernel/random. Not covered are what the processor gives
(RDRAND), addresses, process ids, and times.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from errno import EINVAL, EMFILE
from fcntl import F_SETFL, F_SETPIPE_SZ, fcntl
from hashlib import sha256
from stat import S_IFMT
from typing import TYPE_CHECKING

from sandlock_arch.stub import forced
from sandlock_notif import memory
from sandlock_notif.action import Action, Errno, InjectFd, Value
from sandlock_notif.chacha import Stream
from sandlock_notif.content.identifiers import uuid_line
from sandlock_notif.daemon_executor import in_thread
from sandlock_notif.dispatch import HandlerTable, Outcome, Services, Trap
from sandlock_notif.image import AT_RANDOM, Image
from sandlock_sys import memfd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlock_arch.stub import StubOperation
    from sandlock_notif.processes import Process
    from sandlock_notif.request import Request

__all__ = ["Device", "RandomTable", "decide_getrandom", "key_of"]

_FLAGS = 0x7  # GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE; linux/random.h
_EXCLUSIVE = 0x6  # the last two exclude each other
_MOST = 0x1FFF000  # bytes of one call: INT_MAX >> PAGE_SHIFT, drivers/char/random.c
_AT_ONCE = 1 << 14  # bytes between two turns of the loop; takes about a millisecond
_PIPE = 1 << 14  # bytes that lie ready in a device
_DEVICES = 256  # open at once
_IMAGES = 1 << 64  # the stream of AT_RANDOM: no program's own bytes depend on how many others were started
_AT_FDCWD = -100
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_*, linux/fcntl.h
_STREAMS = ("random", "urandom")
_FILES = {name: f"/dev/{name}" for name in _STREAMS} | {
    name: f"/proc/sys/kernel/random/{name}" for name in ("uuid", "boot_id")
}


def key_of(seed: int) -> bytes:
    """Return the key of a seed, any integer."""
    return sha256(f"sandlock random_seed {seed}".encode()).digest()


def decide_getrandom(size: int, flags: int) -> int | None:
    """Return how many bytes getrandom gives, None for flags that it refuses."""
    if flags & ~_FLAGS or flags & _EXCLUSIVE == _EXCLUSIVE:
        return None
    return min(size, _MOST)


@dataclass(slots=True)
class _Kept:
    """The bytes of a process's next image."""

    data: bytes = b""


class Device:
    """An open /dev/random: a pipe that is filled as it is read, for as long as somebody can read it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: Stream, closed: Callable[[Device], None]) -> None:
        self._loop = loop
        self._stream = stream
        self._closed = closed
        self._left = b""
        reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with suppress(OSError):  # the user's pipes have used up their pages
            fcntl(self._writer, F_SETPIPE_SZ, _PIPE)
        self.reader = reader
        self._fill()
        loop.add_writer(self._writer, self._fill)

    def close(self) -> None:
        """End it: who reads on finds its end. Twice is fine."""
        if self._writer >= 0:
            self._loop.remove_writer(self._writer)
            os.close(self._writer)
            self._writer = -1
            self._closed(self)

    def _fill(self) -> None:
        try:
            while True:
                self._left = self._left or self._stream.take(_PIPE)
                self._left = self._left[os.write(self._writer, self._left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.close()


class RandomTable(HandlerTable):
    """Serves all randomness from one seed. Give it to an `ExecTable` as one of its changes.

    Arguments:
        seed: any integer.

    """

    name = "random"
    begins = True

    def __init__(self, seed: int) -> None:
        self._key = key_of(seed)
        self._stream = Stream(self._key)
        self._images = Stream(self._key, _IMAGES)
        self._boot_id = uuid_line(Stream(self._key, 1).take(16))
        self._opened = 1
        self._devices: set[Device] = set()
        self._services: Services | None = None
        self._how = -1
        self._at: dict[int, int] = {}

    def traps(self) -> Sequence[Trap]:
        """The call, and the opens that may be of a device."""
        may = "/dev/random, /dev/urandom and /proc/sys/kernel/random"
        return (
            Trap("getrandom", self._getrandom, "random bytes come from the seed", (), "memory"),
            Trap("open", self._open, may, (), "memory"),
            Trap("openat", self._open, may, (), "memory"),
            Trap("openat2", self._open, may, (), "memory"),
        )

    def attach(self, services: Services) -> None:
        """Take the loop, and the numbers of the calls."""
        self._services = services
        numbers = services.arch.syscalls
        self._how = numbers["openat2"]
        self._at = {numbers[name]: at for name, at in (("open", 0), ("openat", 1), ("openat2", 1)) if name in numbers}

    async def close(self) -> None:
        """Close the devices."""
        for device in tuple(self._devices):
            device.close()

    def stubs(self) -> Mapping[str, StubOperation]:
        """Return the changes of the vDSO: its getrandom has a state of its own, which nobody else sees."""
        assert self._services is not None  # noqa: S101  # attached before the first exec
        return forced(entry for entry in self._services.arch.vdso_stubs.ENTRIES if entry == "getrandom")

    def prepare(self, process: Process | None) -> Callable[[Image], None] | None:
        """Return what gives an image its 16 bytes.

        They are taken now, while everybody who could ask next waits, and kept for the process's next attempt where this
        one fails: how many folders of PATH are tried must not change what comes after.
        """
        assert process is not None  # noqa: S101  # it changes what begins
        kept = process.state(_Kept)
        data = kept.data = kept.data or self._images.take(16)

        def write(image: Image) -> None:
            kept.data = b""
            address = image.auxiliary().get(AT_RANDOM)
            if address:
                image.write(address, data)

        return write

    def _getrandom(self, request: Request) -> Outcome:
        size = decide_getrandom(request.args[1], request.args[2] & 0xFFFFFFFF)
        if size is None:
            return Errno(EINVAL)
        if size > _AT_ONCE:
            return self._getrandom_much(request, size)
        memory.write(request, request.args[0], self._stream.take(size))
        return Value(size)

    async def _getrandom_much(self, request: Request, size: int) -> Action:
        for done in range(0, size, _AT_ONCE):
            memory.write(request, request.args[0] + done, self._stream.take(min(_AT_ONCE, size - done)))
            await asyncio.sleep(0)
        return Value(size)

    def _open(self, request: Request) -> Outcome:
        """Serve what may be one of ours, by its last name; the rest is the next handler's.

        The kernel reads the path again then: who changes it meanwhile gets randomness that cannot be repeated, and no
        right that it does not have.
        """
        at = self._at[request.nr]
        path = memory.read_path(request, at)
        name = path.rpartition(b"/")[2].decode("latin-1")
        return self._open_named(request, at, path) if name in _FILES else None

    async def _open_named(self, request: Request, at: int, path: bytes) -> Action | None:
        if request.nr == self._how:
            flags = int.from_bytes(memory.read(request, request.args[2], 8), "little")
        else:
            flags = request.args[at + 1] & 0xFFFFFFFF
        if flags & (os.O_PATH | os.O_DIRECTORY) or flags & os.O_ACCMODE == os.O_WRONLY:
            return None
        folder = request.int_arg(0) if at else _AT_FDCWD
        # Beside the loop: a path may lead to a file system that does not answer.
        name = await in_thread(_which, request.tid, folder, path)
        if name is None or not request.waits():
            return None
        close_on_exec = bool(flags & os.O_CLOEXEC)
        if name not in _STREAMS:
            line = self._boot_id if name == "boot_id" else uuid_line(self._stream.take(16))
            return InjectFd(_file(name, line), close_on_exec=close_on_exec)
        if len(self._devices) >= _DEVICES:
            return Errno(EMFILE, f"{_DEVICES} random devices are open")
        return InjectFd(self._device(flags), close_on_exec=close_on_exec)

    def _device(self, flags: int) -> int:
        """Return a device with a stream of its own: how much lies ready in it must not shift what others get."""
        assert self._services is not None  # noqa: S101  # as above
        self._opened += 1
        device = Device(self._services.loop, Stream(self._key, self._opened), self._devices.discard)
        self._devices.add(device)
        fcntl(device.reader, F_SETFL, flags & os.O_NONBLOCK)
        return device.reader


def _which(tid: int, folder: int, path: bytes) -> str | None:
    """Return which of our files a path of the thread leads to, None for another one."""
    if path.startswith(b"/"):
        view = b"/proc/%d/root" % tid
    else:
        view = b"/proc/%d/cwd/" % tid if folder == _AT_FDCWD else b"/proc/%d/fd/%d/" % (tid, folder)
    try:
        found = os.stat(view + path)
    except (OSError, ValueError):
        return None
    for name, own in _FILES.items():
        with suppress(OSError):
            # A device is what its number says, wherever its node lies; the files are in the /proc that the thread sees.
            status = os.stat(own if name in _STREAMS else f"/proc/{tid}/root{own}")
            same = status.st_rdev == found.st_rdev if name in _STREAMS else os.path.samestat(status, found)
            if same and S_IFMT(status.st_mode) == S_IFMT(found.st_mode):
                return name
    return None


def _file(name: str, content: bytes) -> int:
    fd = memfd.create(name.encode())
    os.write(fd, content)
    memfd.add_seals(fd, _ALL_SEALS)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return reader
