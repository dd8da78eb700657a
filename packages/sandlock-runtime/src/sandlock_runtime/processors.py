"""The files that tell how many processors there are, told again for another number."""

from __future__ import annotations

__all__ = ["processor_file", "shown_cpuinfo", "shown_list", "shown_stat"]


def processor_file(path: str, count: int) -> bytes:
    """Return what `path` (one of `PROCESSOR_FILES`) is to say where `count` processors are shown."""
    if path.endswith("/cpuinfo"):
        return shown_cpuinfo(_read(path), count)
    if path.endswith("/stat"):
        return shown_stat(_read(path), count)
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


def shown_stat(real: bytes, count: int) -> bytes:
    """Return /proc/stat with a line for each of `count` processors, the real ones in turn."""
    lines = real.split(b"\n")
    each = [line for line in lines if line.startswith(b"cpu") and line[3:4].isdigit()]
    total = [line for line in lines if line.startswith(b"cpu ")]
    rest = [line for line in lines if not line.startswith(b"cpu")]
    shown = []
    for index in range(count):
        line = each[index % len(each)] if each else b"cpu0 0 0 0 0 0 0 0 0 0 0"
        shown.append(b"cpu%d %s" % (index, line.split(b" ", 1)[1]))
    return b"\n".join([*total, *shown, *rest])


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


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()
