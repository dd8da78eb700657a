"""Change memory as told by lines on standard input, in every way that a program may; answer each with a line."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys

PAGE = mmap.PAGESIZE
READ_WRITE, PRIVATE, SHARED, FIXED, ANONYMOUS = 3, 2, 1, 0x10, 0x20
MAYMOVE, TO = 1, 2
DISCARD, HUGE = 4, 14

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
for name in ("munmap", "madvise", "mprotect"):
    getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
slots: list[list[int]] = []  # address, pages, whether it may be moved about
dice = random.Random(int(sys.argv[1]))  # noqa: S311 - the same each time


def good(value: int | None) -> int:
    assert value is not None, "a null pointer"
    assert value != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    return value


def fill(address: int, pages: int) -> None:
    for page in range(pages):
        ctypes.memset(address + page * PAGE + dice.randrange(PAGE - 8), dice.randrange(256), 8)


def some(pages: int) -> tuple[int, int]:
    first = dice.randrange(pages)
    return first, dice.randint(1, min(8, pages - first))


def new(pages: int) -> None:
    slots.append([good(libc.mmap(None, pages * PAGE, READ_WRITE, PRIVATE | ANONYMOUS, -1, 0)), pages, 1])
    fill(slots[-1][0], pages // 2)


def mapped(path: str, flags: int) -> None:
    with open(path, "r+b") as file:
        slots.append([good(libc.mmap(None, 16 * PAGE, READ_WRITE, flags, file.fileno(), 0)), 16, 0])


def act(what: str) -> None:
    if what == "new":
        new(dice.randint(1, 64))
        return
    if what == "heap":
        fill(good(libc.sbrk(4 * PAGE)), 4)
        return
    if what == "fork":
        child = os.fork()
        if not child:
            for address, pages, _ in slots:
                fill(address, pages)
            os._exit(0)
        os.waitpid(child, 0)
        return
    slot = dice.choice(slots)
    address, pages, free = slot
    first, count = some(pages)
    place = address + first * PAGE
    if what == "write":
        fill(place, count)
    elif what == "read":
        with open("/dev/urandom", "rb", buffering=0) as file:
            file.readinto((ctypes.c_char * (count * PAGE)).from_address(place))
    elif what == "protect":
        libc.mprotect(place, count * PAGE, 0)
        libc.mprotect(place, count * PAGE, READ_WRITE)
    elif not free:
        fill(place, count)
    elif what == "discard":
        libc.madvise(place, count * PAGE, DISCARD)
        if dice.random() < 0.7:
            fill(place, 1)
    elif what == "huge":
        libc.madvise(address, pages * PAGE, HUGE)
    elif what == "replace":  # the same address, another mapping
        libc.munmap(place, count * PAGE, 0)
        good(libc.mmap(place, count * PAGE, READ_WRITE, PRIVATE | ANONYMOUS | FIXED, -1, 0))
        fill(place, dice.randint(0, count))
    elif what == "move":
        target = good(libc.mmap(None, pages * PAGE, READ_WRITE, PRIVATE | ANONYMOUS, -1, 0))
        if libc.mremap(address, pages * PAGE, pages * PAGE, MAYMOVE | TO, target) == target:
            slot[0] = target
            if dice.random() < 0.5:  # and others where it was
                good(libc.mmap(address, pages * PAGE, READ_WRITE, PRIVATE | ANONYMOUS | FIXED, -1, 0))
                slots.append([address, pages, 1])
                fill(address, pages // 2)
    elif what == "grow":
        moved = libc.mremap(address, pages * PAGE, (pages + 8) * PAGE, MAYMOVE, None)
        if moved not in (None, ctypes.c_void_p(-1).value):
            slot[:] = [moved, pages + 8, 1]
            fill(moved + pages * PAGE, 4)
    elif what == "unmap" and len(slots) > 8:
        libc.munmap(address, pages * PAGE, 0)
        slots.remove(slot)


for size in (700, 64, 64, 16):
    new(size)
mapped(sys.argv[2], PRIVATE)
mapped(sys.argv[2], SHARED)
print("ready", flush=True)
for line in sys.stdin:
    for word in line.split():
        act(word)
    print(slots[0][0], flush=True)
