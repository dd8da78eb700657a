"""The record of a run as one HTML page that needs nothing else: no script, no font, no address.

The program chose some of the text. All of it is escaped, and the page says that nothing in it may be loaded or run.
"""

from __future__ import annotations

import shlex
from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any

from sandlock_cli import run_pictures
from sandlock_cli.failure import printable
from sandlock_cli.run_timeline import OVER_TIME, seconds_of, timeline_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["page"]

_COLOURS = {"denied": "#b3261e", "limit": "#b3261e", "fault": "#b26a00", "audit": "#3b6ea5", "http": "#3b6ea5"}
_OTHER = "#666"
_MOST_MARKS = 2000  # of the timeline; more would lie on one another
_MOST_ROWS = 500  # of a table
_WIDTH, _TOP, _LANE = run_pictures.WIDTH, 24, 18  # pixels
_STYLE = (
    "body{font:14px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:2px 12px 2px 0;vertical-align:top;"
    "border-bottom:1px solid #ddd;overflow-wrap:anywhere;min-width:4.5em}td:first-child{min-width:7em}"
    "pre{background:#f5f5f5;padding:1em;overflow:auto}"
    # What is too wide for a small window is moved sideways by itself, and its letters stay as large as the others.
    ".wide{overflow-x:auto}.wide>svg{width:100%;min-width:720px;height:auto}"
    "h1,h2{overflow-wrap:anywhere}h2{font-size:1.1em;margin-top:2em}"
    "td>svg{display:block;width:100%;min-width:180px;max-width:480px;height:16px}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#262626}td,th{border-color:#444}}"
)


def page(name: str, events: Sequence[dict[str, Any]], until: float = 0.0) -> str:
    """Return the page of the run `name`; `events` are the lines of its audit, the oldest first; see `timeline_of`."""
    over_time = timeline_of(events, until)
    events = [event for event in events if event["event"] not in OVER_TIME]
    by_kind: dict[str, dict[str, Any]] = {event["event"]: event for event in events}
    start, end = by_kind.get("start", {}), by_kind.get("end", {})
    launched = by_kind.get("launched", {})
    told = [event for event in events if event["event"] not in ("start", "launched", "end", "failed")]
    parts = [f"<h1>{_text(name)}</h1>", _facts(start, launched, end, by_kind.get("failed", {}))]
    parts += ["<h2>When what happened</h2>", _timeline(events)]
    parts += ["<h2>Processes</h2>", run_pictures.processes(over_time)]
    parts += ["<h2>Calls that the supervisor answered</h2>", run_pictures.calls(over_time)]
    parts += ["<h2>Memory of all processes together</h2>", run_pictures.memory(over_time)]
    parts += ["<h2>What was told</h2>", _counted(told)]
    protections = launched.get("protections", {})
    rows = [(key, row.get("state", ""), row.get("layer", "")) for key, row in protections.items()]
    parts += ["<h2>What was enforced</h2>", _table(("protection", "state", "layer"), rows)]
    policy = "\n".join(_text(line) for line in str(start.get("policy", "")).split("\n"))
    parts += ["<h2>The policy</h2>", f"<pre>{policy}</pre>"]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(name)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _facts(start: dict[str, Any], launched: dict[str, Any], end: dict[str, Any], failed: dict[str, Any]) -> str:
    rows: list[tuple[object, ...]] = [
        ("command", shlex.join(str(word) for word in start.get("command", ()))),
        ("in", start.get("cwd", "")),
        ("started", start.get("time", "")),
        ("process", launched.get("pid", "")),
    ]
    if end:
        how = f"signal {end['signal']}" if end.get("signal") is not None else f"exit code {end.get('exit_code')}"
        usage = end.get("usage", {})
        peak = usage.get("peak_bytes")
        rows += [
            ("end", f"{end.get('reason', '')}, {how} {end.get('error', '')}"),
            ("took", f"{usage.get('wall_s', 0):.3f} s; cpu {usage.get('user_s', 0) + usage.get('system_s', 0):.3f} s"),
            ("largest process", f"{peak / (1 << 20):.1f} MiB" if peak else "not known"),
            ("calls answered by the supervisor", usage.get("notifications", 0)),
        ]
    elif failed:
        rows.append(("end", f"it was not started: {failed.get('error', '')}"))
    else:
        rows.append(("end", "it runs, or its end was not recorded"))
    return _table((), rows)


def _timeline(events: Sequence[dict[str, Any]]) -> str:
    """Return one lane for each kind of event, with a mark for each of them."""
    moments = [(seconds_of(event), event["event"]) for event in events]
    if not moments:
        return "<p>Nothing is recorded.</p>"
    first, last = moments[0][0], max(moment for moment, _ in moments)
    span = max(last - first, 1e-6)
    kinds = list(dict.fromkeys(kind for _, kind in moments))
    parts = []
    for index, kind in enumerate(kinds):
        y = _TOP + index * _LANE
        parts.append(f'<text x="0" y="{y + 12}" fill="currentColor" font-size="12">{_text(kind)}</text>')
    seen = Counter(kind for _, kind in moments)
    for moment, kind in moments[:_MOST_MARKS]:
        x = 90 + (_WIDTH - 100) * (moment - first) / span
        y = _TOP + kinds.index(kind) * _LANE
        parts.append(f'<rect x="{x:.1f}" y="{y + 2}" width="2" height="12" fill="{_COLOURS.get(kind, _OTHER)}"/>')
    height = _TOP + len(kinds) * _LANE + 4
    parts.append('<text x="90" y="14" fill="currentColor" font-size="11">0 s</text>')
    parts.append(f'<text x="{_WIDTH}" y="14" text-anchor="end" fill="currentColor" font-size="11">{span:.3f} s</text>')
    counts = ", ".join(f"{_text(kind)} {count}" for kind, count in seen.items())
    drawn = run_pictures.drawn("".join(parts), height, "when what happened")
    return f"{drawn}<p>{counts}</p>"


def _counted(told: Iterable[dict[str, Any]]) -> str:
    """Return the supervisor's events, the same ones together."""
    counts: Counter[tuple[str, ...]] = Counter()
    for event in told:
        detail = event.get("detail") or {}
        target = detail.get("path", detail.get("endpoint", ""))
        key = (event["event"], event.get("syscall", ""), event.get("error", ""), str(target), event.get("reason", ""))
        counts[tuple(str(part) for part in key)] += 1
    if not counts:
        return "<p>The supervisor told nothing: the kernel alone enforced the policy, or nothing was denied.</p>"
    rows = [(*key, count) for key, count in counts.most_common(_MOST_ROWS)]
    more = len(counts) - len(rows)
    return _table(("event", "call", "error", "target", "reason", "times"), rows) + (
        f"<p>{more} more kinds are not shown.</p>" if more > 0 else ""
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    titles = "".join(f"<th>{_text(title)}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{f"<tr>{titles}</tr>" if titles else ""}{body}</table></div>'


def _text(value: object) -> str:
    return escape(printable(str(value)))
