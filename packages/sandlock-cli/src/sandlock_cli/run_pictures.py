"""What a run did over time, as pictures for its page: lanes of processes, calls, memory. Text in them is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from sandlock_cli.failure import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WIDTH", "calls", "drawn", "memory", "processes"]

WIDTH = 900
"""Of a picture, in pixels before a window scales it."""
_LEFT, _LANE, _TOP = 200, 16, 20  # pixels
_BAR, _EXEC = "#3b6ea5", "#b26a00"
_LABEL = 28  # characters
_MOST_CALLS = 60  # rows
_MIB = 1 << 20


def processes(timeline: dict[str, Any]) -> str:
    """Return a lane for each process, from its start to its end, with a mark where it began to run another program."""
    lanes = timeline["processes"]
    if not lanes:
        return "<p>No process is recorded.</p>"
    length = timeline["seconds"]
    parts = [
        f'<text x="{_LEFT}" y="12" fill="currentColor" font-size="11">0 s</text>',
        f'<text x="{WIDTH}" y="12" text-anchor="end" fill="currentColor" font-size="11">{length:.3f} s</text>',
    ]
    for index, lane in enumerate(lanes):
        parts.append(_lane(lane, _TOP + index * _LANE, length))
    words = []
    if not timeline["watched"]:
        words.append("The kernel alone enforced the policy: nobody watched, and only the first process is known.")
    else:
        words.append(
            "A process that was killed within a moment, before it asked the supervisor anything, is not here. "
            "A mark is where another program was seen to run."
        )
    if timeline["unlisted"]:
        words.append(f"And {timeline['unlisted']} more processes, which have no lane.")
    picture = drawn("".join(parts), _TOP + len(lanes) * _LANE + 4, "processes")
    return f"{picture}<p>{' '.join(words)}</p>"


def calls(timeline: dict[str, Any]) -> str:
    """Return how often each call was answered by the supervisor, and when."""
    found = timeline["notifications"]
    if not found:
        return "<p>No call was answered by the supervisor.</p>"
    rows = []
    for name, call in list(found.items())[:_MOST_CALLS]:
        bars = _bars(call["over_time"], 360, 16)
        picture = f'<svg viewBox="0 0 360 16" preserveAspectRatio="none">{bars}</svg>'
        rows.append(f"<tr><td>{_text(name)}</td><td>{call['times']}</td><td>{picture}</td></tr>")
    more = f"<p>And {len(found) - _MOST_CALLS} more calls.</p>" if len(found) > _MOST_CALLS else ""
    head = f"<tr><th>call</th><th>times</th><th>over {timeline['seconds']:.3f} s</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>{more}'


def memory(timeline: dict[str, Any]) -> str:
    """Return the memory of all processes together, over time."""
    used = timeline["memory_bytes"]
    if used is None:
        return "<p>Not known: only with a limit (max_memory) does the supervisor look at it.</p>"
    length = timeline["seconds"]
    most = f'<text x="0" y="14" fill="currentColor" font-size="11">{max(used) / _MIB:.1f} MiB</text>'
    picture = drawn(f'{most}<g transform="translate({_LEFT} 4)">{_bars(used, WIDTH - _LEFT, 80)}</g>', 88, "memory")
    return f"{picture}<p>At most {max(used) / _MIB:.1f} MiB were seen, in {length:.3f} s.</p>"


def _lane(lane: dict[str, Any], y: int, length: float) -> str:
    ended_s = length if lane["ended_s"] is None else lane["ended_s"]
    begin, end = _x(lane["began_s"], length), _x(ended_s, length)
    programs = lane["programs"]
    name = programs[-1]["program"].rpartition("/")[2] if programs else ""
    label = f"{lane['pid']} {name}"
    label = label if len(label) <= _LABEL else label[: _LABEL - 1] + "\u2026"
    told = [f"process {lane['pid']} of {lane['parent']}", f"{lane['began_s']:.3f} s to {ended_s:.3f} s"]
    told[1] += ", and it lives" if lane["ended_s"] is None else ""
    told += [f"{change['at_s']:.3f} s {change['program']}" for change in programs]
    marks = "".join(
        f'<rect x="{_x(change["at_s"], length):.1f}" y="{y + 1}" width="2" height="13" fill="{_EXEC}"/>'
        for change in programs[1:]
    )
    return (
        f"<g><title>{_text('; '.join(told))}</title>"
        f'<text x="0" y="{y + 11}" fill="currentColor" font-size="11">{_text(label)}</text>'
        f'<rect x="{begin:.1f}" y="{y + 3}" width="{max(end - begin, 1):.1f}" height="9" fill="{_BAR}"/>{marks}</g>'
    )


def _bars(values: Sequence[float], width: int, height: int) -> str:
    most, each = max(*values, 1e-9), width / len(values)
    return "".join(
        f'<rect x="{index * each:.1f}" y="{height - height * value / most:.1f}" width="{each - 0.5:.1f}" '
        f'height="{max(height * value / most, 0.5):.1f}" fill="{_BAR}"/>'
        for index, value in enumerate(values)
        if value > 0
    )


def _x(at_s: float, length: float) -> float:
    return _LEFT + (WIDTH - _LEFT) * min(max(at_s / length, 0.0), 1.0)


def drawn(content: str, height: int, label: str) -> str:
    """Return a picture of full width, which a small window moves sideways."""
    return (
        f'<div class="wide"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{content}</svg></div>'
    )


def _text(value: object) -> str:
    return escape(printable(str(value)))
