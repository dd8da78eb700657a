"""Which removed and which added file are the same one under another name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock_cow.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock_cow.model import Change, Entry

__all__ = ["renames"]


def renames(changes: Iterable[Change]) -> tuple[tuple[str, str], ...]:
    """Pairs (old path, new path) among `changes`, sorted by old path.

    A removed file and an added one are a pair when kind and content agree and the content is not empty (all empty
    files are alike); among several, those of the same last name first, then in order. Directories are told by what is
    in them. Needs changes with digests.
    """
    removed: dict[tuple[Kind, str, str], list[str]] = {}
    added: dict[tuple[Kind, str, str], list[str]] = {}
    for change in changes:
        if change.kind == "D" and change.before is not None and (key := _key(change.before)):
            removed.setdefault(key, []).append(change.path)
        elif change.kind == "A" and change.after is not None and (key := _key(change.after)):
            added.setdefault(key, []).append(change.path)
    pairs = []
    for key, olds in removed.items():
        pairs += _pair(sorted(olds), sorted(added.get(key, [])))
    return tuple(sorted(pairs))


def _key(entry: Entry) -> tuple[Kind, str, str] | None:
    if entry.kind is Kind.FILE and entry.size and entry.digest:
        return entry.kind, entry.digest, ""
    if entry.kind is Kind.SYMLINK:
        return entry.kind, "", entry.target
    return None


def _pair(olds: list[str], news: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for old in list(olds):
        same_name = next((new for new in news if new.rpartition("/")[2] == old.rpartition("/")[2]), None)
        if same_name is not None:
            pairs.append((old, same_name))
            olds.remove(old)
            news.remove(same_name)
    return pairs + list(zip(olds, news, strict=False))
