"""Lists of small numbers: processor cores and graphics processors."""

from __future__ import annotations

from sandlock_policy.errors import RuleError

__all__ = ["parse_cores", "parse_gpus"]

_CORES = 8192  # CONFIG_NR_CPUS at its most, arch/x86/Kconfig
_GPUS = 128


def parse_cores(value: object) -> tuple[int, ...]:
    """Return the cores that `0,2-3`, an int or an iterable of ints names, sorted, each once."""
    return _parse_list(value, "a core", _CORES)


def parse_gpus(value: object) -> str | tuple[int, ...] | None:
    """Return `all`, or the indices that `0,2`, an int or an iterable of ints names; an empty list is none."""
    if value == "all":
        return "all"
    return _parse_list(value, "a graphics processor", _GPUS) or None


def _parse_list(value: object, what: str, count: int) -> tuple[int, ...]:
    numbers: set[int] = set()
    if isinstance(value, str):
        position = 0
        for part in value.split(","):
            first, dash, last = part.partition("-")
            start = _number(first, what, count, position)
            end = _number(last, what, count, position + len(first) + 1) if dash else start
            if end < start:
                raise RuleError(f"the range {part} ends before it starts", f"write {end}-{start}", position)
            numbers.update(range(start, end + 1))
            position += len(part) + 1
    else:
        items = [value] if isinstance(value, int) else value
        if not isinstance(items, list | tuple | set | frozenset | range):
            raise RuleError(f"{value!r} is not a list of numbers", "write such as '0,2-3' or [0, 2, 3]")
        for item in items:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < count:
                raise RuleError(f"{item!r} is not {what} from 0 to {count - 1}")
            numbers.add(item)
    return tuple(sorted(numbers))


def _number(text: str, what: str, count: int, position: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or int(text) >= count:
        raise RuleError(f"{text!r} is not {what} from 0 to {count - 1}", "write such as '0,2-3'", position)
    return int(text)
