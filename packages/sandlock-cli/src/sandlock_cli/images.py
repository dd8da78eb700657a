"""`sandlock images`: the file systems that `--image` has unpacked; and the progress of unpacking one."""

from __future__ import annotations

import json
import time

from sandlock_cli.failure import printable, warn
from sandlock_cli.help import print_verb
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.progress import Bar
from sandlock_cli.verbs import IMAGES_ACTIONS, options_of
from sandlock_policy.validate import closest
from sandlock_runtime.images.cache import list_images, remove_image, unpack_image
from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.running import image_path

__all__ = ["main", "unpack"]

_SHOWN = 12  # digits of a digest: enough to name one of a few


def main(words: list[str]) -> int:
    """List or remove images: 0, or 1 where one is not there or in use."""
    values, rest = parse(words, table(options_of("images")), "images")
    if values.get("help"):
        return print_verb("images")
    action, names = (rest[0], rest[1:]) if rest else ("list", [])
    if action not in IMAGES_ACTIONS:
        likely = closest(action, list(IMAGES_ACTIONS)) or ", ".join(IMAGES_ACTIONS)
        raise UsageError(f"nothing called {action} can be done with images; {likely}", "images")
    if action == "remove":
        if bool(names) == bool(values.get("all")):
            raise UsageError("images remove needs digests, or --all", "images")
        return _remove(names or [image.digest for image in list_images()])
    if names or values.get("all"):
        raise UsageError(f"images list takes no {names[0] if names else '--all'}", "images")
    _list(as_json=bool(values.get("json")))
    return 0


def unpack(reference: str, *, quiet: bool) -> None:
    """Unpack the image where it is not in the cache, with a bar on a terminal."""
    with Bar("MiB of the image", 20, quiet=quiet) as progress:
        unpack_image(image_path(reference), progress)


def _list(*, as_json: bool) -> None:
    images = list_images()
    if as_json:
        rows = [
            {
                "digest": image.digest,
                "source": image.source,
                "created_s": image.created_s,
                "size": image.size,
                "root": image.root,
            }
            for image in images
        ]
        print(json.dumps({"schema": 1, "images": rows}))
        return
    for image in images:
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(image.created_s))
        digits = image.digest.partition(":")[2][:_SHOWN]
        print(f"{digits}  {made}  {image.size / (1 << 20):8.1f} MiB  {printable(image.source)}")


def _remove(names: list[str]) -> int:
    status = 0
    for name in names:
        try:
            remove_image(name)
        except OciImageError as error:
            warn(str(error))
            status = 1
    return status
