"""`sandlock image`: what an image of a saved process holds, and whether it is whole."""

from __future__ import annotations

import json
from typing import Any

from sandlock_checkpoint import image
from sandlock_checkpoint.errors import ImageError
from sandlock_cli.failure import printable, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.progress import Bar
from sandlock_cli.verbs import IMAGE_ACTIONS, options_of
from sandlock_policy.validate import closest

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Do what `words` name with each image: 0, or 1 where one is missing or damaged."""
    values, rest = parse(words, table(options_of("image")), "image")
    if values.get("help"):
        return print_verb("image")
    if not rest:
        raise UsageError("what is to be done with the images? " + ", ".join(IMAGE_ACTIONS), "image")
    action, paths = rest[0], rest[1:]
    if action not in IMAGE_ACTIONS:
        likely = closest(action, list(IMAGE_ACTIONS)) or ", ".join(IMAGE_ACTIONS)
        raise UsageError(f"nothing called {action} can be done with images; {likely}", "image")
    if not paths:
        raise UsageError(f"image {action} needs the directory of an image", "image")
    as_json, quiet = bool(values.get("json")), bool(values.get("quiet"))
    return max([_each(action, path, as_json=as_json, quiet=quiet) for path in paths])


def _each(action: str, path: str, *, as_json: bool, quiet: bool) -> int:
    """Do `action` with one image; 1 where that failed, which is told."""
    try:
        with Bar("MiB read", 20, quiet=quiet) as progress:
            found: dict[str, Any] = image.verify(path, progress=progress) if action == "verify" else image.show(path)
    except ImageError as error:
        warn(f"image {path}: {error}")
        return 1
    if as_json:
        print(json.dumps(found))
    elif action == "verify":
        print(f"{printable(path)}: whole, {_size(found['contents_bytes'])} of memory")
    else:
        print("\n".join(_lines(path, found)))
    return 0


def _lines(path: str, found: dict[str, Any]) -> list[str]:
    lines = [
        f"{printable(path)}: {printable(found['name']) or 'no name'}, {found['architecture']}, Linux {found['kernel']}",
        f"  digest {found['digest']}",
        f"  {_size(found['contents_bytes'])} of memory, {_size(found['inherited_bytes'])} of it in other images"
        + (f" ({_size(found['unread_bytes'])} of that not compared)" if found["unread_bytes"] else "")
        + "".join([f"; needs {printable(name)}" for name in found["ancestors"]]),
        f"  {found['open_files']} open files",
    ]
    lines += [
        f"  process {one['pid']}: {printable(one['exe'])}, {one['threads']} threads, {one['descriptors']} descriptors, "
        f"{one['mappings']} mappings, in {printable(one['cwd'])}"
        for one in found["processes"]
    ]
    return lines + [f"  not saved: {printable(one['name'])} ({one['reason']})" for one in found["unsupported"]]


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
