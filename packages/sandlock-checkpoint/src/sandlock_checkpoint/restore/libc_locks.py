"""The C library's own locks name their holder by its thread id: where the id is another now, so must be the name.

A program may be saved just while glibc holds one: the lock for reading and writing that setlocale(3) takes, which every
interpreter calls as it begins, or the recursive one of the loader. Its release compares ids: under another one a lock
that is held for writing is given back as one that is held for reading, and whoever takes it next waits for ever.

Only the data of glibc itself is looked through, of which it is known what is in it: a word there that is a captured
thread id, and stands where a lock that is held has its holder, with all else as such a lock has it, is one. What a
program has in its own memory, nobody can tell from a number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from sandlock_checkpoint.memory import Mapping as Area
from sandlock_checkpoint.memory import MappingKind
from sandlock_checkpoint.model import ProcessInfo
from sandlock_sys import procmem
from sandlock_sys.errors import SyscallError

__all__ = ["held_locks", "rename_holders"]

_LIBRARY = re.compile(
    rb"(libc\.so\.6|libc-2\.\d+\.so|libpthread\.so\.0|libpthread-2\.\d+\.so|ld-linux[\w.-]*|ld-2\.\d+\.so)"
)
_WRITE = 2  # PROT_WRITE
_LARGEST = 1 << 20  # of a library's data; glibc has some 60 KiB
_MOST = 4 << 20  # in all: anybody may call a file libc.so.6, and map it as often as he likes
_WORD = 4
# struct __pthread_rwlock_arch_t of glibc on 64-bit machines, in words: readers, writers, phase, futex, two of nothing,
# the writer, shared. A writer has it when both of the lowest bits of `readers` are set.
_WRITER, _HELD_FOR_WRITING = 6, 3
# struct __pthread_mutex_s: lock, count, owner, users, kind. Held: 1, or 2 where others wait.
_OWNER, _RECURSIVE = 2, 1


def rename_holders(pid: int, process: ProcessInfo, numbers: Mapping[int, int]) -> int:
    """Write new thread ids into the locks of glibc that are held; return how many there were.

    Arguments:
        pid: of the process under restore, as the caller sees it; its memory is filled.
        process: what it is to be.
        numbers: captured thread ids -> those of now.

    """
    changed = {old: new for old, new in numbers.items() if old != new}
    if not changed:
        return 0
    done = 0
    for start, size in _data(process):
        try:
            data = procmem.read(pid, start, size)
            for offset, holder in held_locks(data, changed):
                procmem.write(pid, start + offset, changed[holder].to_bytes(_WORD, "little"))
                done += 1
        except SyscallError:
            continue  # the program has taken the right to read away from itself
    return done


def held_locks(data: bytes, holders: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Yield where in a library's data the holder of a lock is named, and which of `holders` that is."""
    words = memoryview(data)[: len(data) // _WORD * _WORD].cast("I")
    for index, word in enumerate(words):  # once, however many threads there are
        if word in holders and (_is_written(words, index) or _is_taken(words, index)):
            yield index * _WORD, word


def _is_written(words: memoryview, index: int) -> bool:
    """Whether the word is the writer that has a lock for reading and writing."""
    first = index - _WRITER
    if first < 0 or index + 1 >= len(words):
        return False
    readers, _, _, _, none, nothing = words[first:index]
    return readers & _HELD_FOR_WRITING == _HELD_FOR_WRITING and not none and not nothing and words[index + 1] <= 1


def _is_taken(words: memoryview, index: int) -> bool:
    """Whether the word is the owner of a recursive mutex that is held."""
    first = index - _OWNER
    if first < 0 or index + 2 >= len(words):
        return False
    lock, count = words[first:index]
    users, kind = words[index + 1 : index + 3]
    return lock in {1, 2} and bool(count) and users == 1 and kind == _RECURSIVE


def _data(process: ProcessInfo) -> Iterator[tuple[int, int]]:
    """Yield address and length of what the libraries write to: of the file, and the zeros behind it."""
    before: Area | None = None
    left = _MOST
    for area in process.mappings:
        own = area.kind is MappingKind.FILE and area.file is not None and not area.shared
        if own and area.file is not None and not _LIBRARY.fullmatch(os.path.basename(area.file.path)):
            own = False
        behind = (
            area.kind is MappingKind.ANONYMOUS and not area.name and before is not None and before.end == area.start
        )
        before = area if own or behind else None
        if before is not None and area.prot & _WRITE and area.size <= min(_LARGEST, left):
            left -= area.size
            yield area.start, area.size
