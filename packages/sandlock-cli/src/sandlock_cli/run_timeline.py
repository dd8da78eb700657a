"""What a record tells of a run over time: its processes, the calls that were answered, its memory.

Where the kernel alone enforced the policy nobody watched, and only the first process is known.
"""

from __future__ import annotations

from datetime import datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BUCKETS", "OVER_TIME", "seconds_of", "timeline_of"]

BUCKETS = 60
OVER_TIME = ("process", "sample")
"""The events that tell it, and are too many to be read one by one."""
_MOST_LANES = 200  # the record has no more; a file that says otherwise is not believed
_MOST_CALLS = 500  # of different names; no kernel has more


def timeline_of(events: Sequence[dict[str, Any]], until: float = 0.0) -> dict[str, Any]:
    """Return what the latest run of a record did over time; docs/reference/cli.md has the keys.

    Arguments:
        events: the lines of the record, the oldest first.
        until: a moment up to which the run lived, seconds since 1970, where its end is not in the record.

    Raises:
        ValueError, TypeError, KeyError: it is no record.

    """
    latest = max((index for index, event in enumerate(events) if event["event"] == "start"), default=0)
    run = [(seconds_of(event), event) for event in events[latest:]]
    first = run[0][0] if run else 0.0
    over = any(event["event"] in ("end", "failed") for _, event in run)
    last = max([moment for moment, _ in run] + ([] if over else [until]), default=0.0)
    length = max(last - first, 1e-6)
    lanes = _lanes(run, first)
    samples = [(moment - first, event) for moment, event in run if event["event"] == "sample"]
    unlisted = max((int(_number(event.get("unlisted", 0))) for _, event in samples), default=0)
    return {
        "seconds": round(length, 6),
        "watched": bool(lanes),
        "processes": list(lanes.values()) if lanes else _first_process(run, first),
        "unlisted": unlisted,
        "bucket_s": length / BUCKETS,
        "notifications": _calls(samples, length),
        "memory_bytes": _memory(samples, length),
    }


def seconds_of(event: dict[str, Any]) -> float:
    """Return when an event was, in seconds since 1970; 0 where it does not say."""
    try:
        return datetime.fromisoformat(str(event.get("time", ""))).timestamp()
    except ValueError:
        return 0.0


def _lanes(run: Sequence[tuple[float, dict[str, Any]]], first: float) -> dict[object, dict[str, Any]]:
    lanes: dict[object, dict[str, Any]] = {}
    for moment, event in run:
        if event["event"] != "process":
            continue
        number, what, at_s = int(_number(event["lane"])), event["what"], round(moment - first, 6)
        if what == "began" and len(lanes) < _MOST_LANES:
            began_s = round(max(at_s - _number(event["age_s"]), 0.0), 6)
            lanes[number] = {"pid": event["pid"], "parent": event["parent"], "began_s": began_s, "ended_s": None}
            lanes[number]["programs"] = []
        if number not in lanes:
            continue
        if what == "ended":
            lanes[number]["ended_s"] = at_s
        elif event["program"]:
            lanes[number]["programs"].append({"at_s": at_s, "program": str(event["program"])})
    return lanes


def _first_process(run: Sequence[tuple[float, dict[str, Any]]], first: float) -> list[dict[str, Any]]:
    launched = next(((moment, event) for moment, event in run if event["event"] == "launched"), None)
    if launched is None:
        return []
    ended = next((round(moment - first, 6) for moment, event in run if event["event"] == "end"), None)
    began_s = round(launched[0] - first, 6)
    return [{"pid": launched[1]["pid"], "parent": 0, "began_s": began_s, "ended_s": ended, "programs": []}]


def _calls(samples: Sequence[tuple[float, dict[str, Any]]], length: float) -> dict[str, dict[str, Any]]:
    """Return how often each call was asked about, the most frequent first, in all and in each bucket."""
    found: dict[str, dict[str, Any]] = {}
    for end_s, event in samples:
        begin_s = end_s - _number(event["span_s"])
        for name, times in event["notifications"].items():
            if name not in found and len(found) >= _MOST_CALLS:
                continue
            call = found.setdefault(name, {"times": 0, "over_time": [0.0] * BUCKETS})
            call["times"] += int(_number(times))
            _spread(call["over_time"], begin_s, end_s, _number(times), length)
    for call in found.values():
        call["over_time"] = [round(value, 2) for value in call["over_time"]]
    return dict(sorted(found.items(), key=lambda item: (-item[1]["times"], item[0])))


def _spread(buckets: list[float], begin_s: float, end_s: float, amount: float, length: float) -> None:
    """Share `amount` among the buckets between two moments."""
    first, last = _bucket(begin_s, length), _bucket(end_s, length)
    if first == last:
        buckets[first] += amount
        return
    width, span = length / BUCKETS, end_s - begin_s
    for index in range(first, last + 1):
        inside = min(end_s, (index + 1) * width) - max(begin_s, index * width)
        buckets[index] += amount * max(inside, 0.0) / span


def _memory(samples: Sequence[tuple[float, dict[str, Any]]], length: float) -> list[int] | None:
    """Return the largest use in each bucket; None where nobody looked at it."""
    seen = [(at_s, event) for at_s, event in samples if event.get("memory_bytes") is not None]
    if not seen:
        return None
    largest: list[int | None] = [None] * BUCKETS
    for end_s, event in seen:
        used = int(_number(event["memory_bytes"]))
        for index in {_bucket(end_s - _number(event["span_s"]), length), _bucket(end_s, length)}:
            largest[index] = max(largest[index] or 0, used)
    known, filled = 0, []
    for value in largest:  # what did not change was not written again
        known = known if value is None else value
        filled.append(known)
    return filled


def _bucket(at_s: float, length: float) -> int:
    return min(max(int(at_s / length * BUCKETS), 0), BUCKETS - 1)


def _number(value: object) -> float:
    """Return a number of the record; ValueError where it is none that can be drawn."""
    if not isinstance(value, int | float) or not isfinite(value) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is no number of a record")
    return float(value)
