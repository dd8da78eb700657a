"""Find processes outside the checkpoint that have memory in common with those inside."""

from __future__ import annotations

import os
from collections.abc import Container

from sandlock_checkpoint.capture.shared import SharedObjects
from sandlock_checkpoint.terms import Unsupported

__all__ = ["find_outsiders"]


def find_outsiders(shared: SharedObjects, inside: Container[int]) -> list[Unsupported]:
    """Return the shared memory that a process outside maps or holds a descriptor of, with that process.

    Only processes that the caller may look at are seen. It costs a look at each of them, and only where there is shared
    memory at all.

    Arguments:
        shared: of all processes inside.
        inside: their pids, as the caller sees them; and the caller's own, who holds descriptors to read from.

    """
    wanted = {_as_in_maps(found.key): number for number, found in enumerate(shared.objects)}
    keys = {found.key: number for number, found in enumerate(shared.objects)}
    found: dict[int, int] = {}
    if wanted:
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) not in inside:
                for number in _mapped(int(name), wanted) | _held(int(name), keys):
                    found.setdefault(number, int(name))
    return [
        Unsupported(
            f"shared:{number}",
            "shared_with_outsider",
            f"{shared.objects[number].kind} memory that process {pid} outside has too: each would have its own",
        )
        for number, pid in sorted(found.items())
    ]


def _as_in_maps(key: tuple[int, int]) -> bytes:
    device, inode = key
    return b" %02x:%02x %d " % (os.major(device), os.minor(device), inode)


def _mapped(pid: int, wanted: dict[bytes, int]) -> set[int]:
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            text = file.read()
    except OSError:  # it has ended (ENOENT, ESRCH), or is not ours to look at (EACCES)
        return set()
    return {number for words, number in wanted.items() if words in text}


def _held(pid: int, keys: dict[tuple[int, int], int]) -> set[int]:
    numbers = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            facts = os.stat(f"/proc/{pid}/fd/{name}")
            if (facts.st_dev, facts.st_ino) in keys:
                numbers.add(keys[facts.st_dev, facts.st_ino])
    except OSError:  # as above, or the descriptor was closed meanwhile
        return numbers
    return numbers
