"""The files that tell how many processors there are, told again for another number."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_policy import Policy

__all__ = ["boot_s", "first_stat", "processor_file", "shown_cpuinfo", "shown_list", "shown_processors"]


def shown_processors(policy: Policy) -> int:
    """Return how many processors a run is shown."""
    return policy.num_cpus or _online()


def boot_s(policy: Policy) -> int:
    """Return when the machine of a run that starts now was started, in its own wall clock's seconds since 1970."""
    if policy.time_start is None:
        return int(time.time())
    from sandlock_policy.rules.times import time_ns  # lazy: few runs have a clock of their own

    return time_ns(policy.time_start) // 1_000_000_000


def processor_file(path: str, count: int, booted_s: int) -> bytes:
    """Return what `path` (one of `PROCESSOR_FILES`) is to say where `count` processors are shown."""
    if path.endswith("/cpuinfo"):
        return shown_cpuinfo(_read(path), count)
    if path.endswith("/stat"):
        return first_stat(count, booted_s)
    return shown_list(count)


def shown_list(count: int) -> bytes:
    """Return the list of cpus 0 to `count` - 1 as /sys/devices/system/cpu/online writes it."""
    return b"0\n" if count == 1 else b"0-%d\n" % (count - 1)


def shown_cpuinfo(real: bytes, count: int) -> bytes:
    """Return /proc/cpuinfo with `count` processors: the real ones in turn, numbered anew; what follows them is kept."""
    blocks = [block for block in real.split(b"\n\n") if block.strip()]
    processors = [block for block in blocks if block.startswith(b"processor")]
    rest = [block for block in blocks if not block.startswith(b"processor")]
    if not processors:
        return real
    shown = [_numbered(processors[index % len(processors)], index, count) for index in range(count)]
    return b"\n\n".join([*shown, *rest]) + b"\n\n"


def first_stat(count: int, booted_s: int) -> bytes:
    """Return /proc/stat as it is when a machine with `count` processors has just started, at `booted_s` since 1970."""
    zeros = b" 0" * 10 + b"\n"
    each = b"".join(b"cpu%d%s" % (index, zeros) for index in range(count))
    rest = b"processes 2\nprocs_running 1\nprocs_blocked 0\nsoftirq 0%s" % zeros
    return b"cpu %s%sintr 0\nctxt 0\nbtime %d\n%s" % (zeros, each, booted_s, rest)


def _numbered(block: bytes, index: int, count: int) -> bytes:
    """Return the entry of one processor with its own number, and the shown number of its siblings."""
    own = {b"processor": index, b"core id": index, b"apicid": index, b"initial apicid": index}
    whole = {b"siblings": count, b"cpu cores": count}
    lines = []
    for line in block.split(b"\n"):
        name, colon, _ = line.partition(b":")
        key = name.strip()
        number = own.get(key, whole.get(key))
        lines.append(b"%s%s %d" % (name, colon, number) if number is not None else line)
    return b"\n".join(lines)


_counted = (0, -1.0)  # how many, and when
_RECENT_S = 1.0


def _online() -> int:
    """Return how many processors are in use: asking the kernel costs more than making a file that tells it."""
    global _counted  # noqa: PLW0603  # one answer serves all launches of a second
    count, at = _counted
    now = time.monotonic()
    if not count or now - at > _RECENT_S:
        count = os.cpu_count() or 1
        _counted = (count, now)
    return count


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()
