"""From an index to the one image that runs here, and what its manifest and configuration say; all of it checked."""

from __future__ import annotations

import json
from typing import Any

from sandlock_arch import native
from sandlock_policy.record import record
from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.layer import check_compression
from sandlock_runtime.images.layout import Descriptor, split_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_runtime.images.layout import Layout

__all__ = ["Image", "ImageConfig", "choose_image", "config_of", "read_image"]

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TAG = "org.opencontainers.image.ref.name"  # image-spec, annotations.md
_DEEPEST, _MOST_ENTRIES, _MOST_LAYERS, _MOST_INDEXES = 4, 1000, 1000, 100


@record(frozen=True, slots=True)
class ImageConfig:
    """What an image says about the programs in it.

    Attributes:
        env: NAME -> value.
        cwd: an absolute path inside.
        entrypoint, command: what is run where the caller names nothing, one behind the other.
        user: as it is written there: name or number, with a group or without; "" for root.

    """

    env: dict[str, str]
    cwd: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str


@record(frozen=True, slots=True)
class Image:
    """One image: its layers, the lowest first, each with the digest of its archive, and its configuration."""

    digest: str
    layers: tuple[tuple[Descriptor, str], ...]
    config: ImageConfig


def choose_image(layout: Layout, tag: str) -> Descriptor:
    """Return the manifest of the image for this machine: the one with `tag`, or the only one.

    Raises:
        OciImageError: there is none, or there are several.

    """
    index = _json(layout.small("index.json"), "index.json")
    entries = list(_entries(index, "index.json"))
    tags = sorted({entry.tag for entry in entries if entry.tag})
    if tag:
        entries = [entry for entry in entries if entry.tag == tag]
        if not entries:
            raise OciImageError(f"it has no tag {tag!r}", f"it has {', '.join(tags)[:500] or 'none'}")
    found = {entry.digest: entry for entry in _manifests(layout, entries, 0, set()) if _fits(entry)}
    exact = {digest: entry for digest, entry in found.items() if entry.architecture}
    found = exact if len(found) > 1 and exact else found
    if len(found) == 1:
        return found.popitem()[1]
    if not found:
        raise OciImageError(f"it has none for this machine (linux/{native().oci_name})", "get it for this platform")
    remedy = f"name one, as in oci:DIR:{tags[0]}: it has {', '.join(tags)[:500]}" if tags else "keep one"
    raise OciImageError(f"it has {len(found)} images", remedy)


def read_image(layout: Layout, chosen: Descriptor) -> Image:
    """Return what the manifest `chosen` and its configuration say."""
    manifest = _json(layout.document(chosen), "manifest")
    stored = _descriptor(manifest.get("config"), "the manifest's config")
    config = _json(layout.document(stored), "configuration")
    here = native().oci_name
    if (config.get("os"), config.get("architecture")) != ("linux", here):
        text = f"{config.get('os')!s:.40}/{config.get('architecture')!s:.40}"
        raise OciImageError(f"it is for {text}, and this machine is linux/{here}", "get it for this platform")
    layers = [_descriptor(one, "a layer") for one in _list(manifest, "layers", "manifest")]
    root = config.get("rootfs")
    ids = _list(root, "diff_ids", "configuration's rootfs") if isinstance(root, dict) else []
    if len(layers) != len(ids) or not layers or len(layers) > _MOST_LAYERS:
        raise OciImageError(f"its manifest has {len(layers)} layers, and its configuration {len(ids)}")
    for one in ids:
        split_digest(str(one))
    for layer in layers:
        check_compression(layer.media_type)
    pairs = tuple([(layer, str(one)) for layer, one in zip(layers, ids, strict=True)])
    return Image(chosen.digest, pairs, config_of(config.get("config")))


def config_of(raw: object) -> ImageConfig:
    """Return the part of a configuration about running, from its JSON; it may be missing altogether."""
    given = raw if isinstance(raw, dict) else {}
    env = {}
    for item in _texts(given, "Env"):
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise OciImageError(f"its configuration has {item[:100]!r} among the variables")
        env[name] = value
    cwd = given.get("WorkingDir") or "/"
    # A path of a policy is expanded, and this one is no word of the caller's.
    if not isinstance(cwd, str) or cwd[:1] != "/" or "\0" in cwd or "${" in cwd:
        raise OciImageError(f"its configuration has {str(cwd)[:100]!r} as the working directory")
    user = given.get("User") or ""
    if not isinstance(user, str):
        raise OciImageError("its configuration has a user that is no text")
    return ImageConfig(env, cwd, _texts(given, "Entrypoint"), _texts(given, "Cmd"), user)


def _texts(given: dict[str, Any], name: str) -> tuple[str, ...]:
    found = given.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, str) and "\0" not in item for item in found):
        raise OciImageError(f"its configuration's {name} is no list of texts")
    return tuple(found)


def _fits(entry: Descriptor) -> bool:
    """Whether an entry may be for this machine; one without a platform may."""
    return entry.os in ("", "linux") and entry.architecture in ("", native().oci_name)


def _manifests(layout: Layout, entries: list[Descriptor], depth: int, seen: set[str]) -> Iterator[Descriptor]:
    """Go through the manifests of `entries`, those of indexes among them included; each index, in `seen`, once."""
    for entry in entries:
        if entry.media_type in _INDEXES and _fits(entry):
            if depth >= _DEEPEST:
                raise OciImageError(f"its indexes lead to each other more than {_DEEPEST} times")
            if entry.digest in seen:
                continue  # a thousand times the same one in each of a few is more than anybody waits for
            seen.add(entry.digest)
            if len(seen) > _MOST_INDEXES:
                raise OciImageError(f"it has more than {_MOST_INDEXES} indexes", "nobody needs such an image")
            inner = _json(layout.document(entry), "index")
            yield from _manifests(layout, list(_entries(inner, "an index")), depth + 1, seen)
        elif entry.media_type in _MANIFESTS:
            yield entry


def _entries(index: dict[str, Any], where: str) -> Iterator[Descriptor]:
    listed = _list(index, "manifests", where)
    if len(listed) > _MOST_ENTRIES:
        raise OciImageError(f"{where} has {len(listed)} entries, and {_MOST_ENTRIES} are the most")
    for one in listed:
        yield _descriptor(one, f"an entry of {where}")


def _descriptor(raw: object, where: str) -> Descriptor:
    if not isinstance(raw, dict):
        raise OciImageError(f"{where} is no object")
    kind, digest, size = raw.get("mediaType"), raw.get("digest"), raw.get("size")
    if not isinstance(kind, str) or not isinstance(digest, str) or type(size) is not int or size < 0:
        raise OciImageError(f"{where} lacks its type, digest or size")
    split_digest(digest)
    platform, notes = raw.get("platform"), raw.get("annotations")
    words = [platform.get(name) if isinstance(platform, dict) else "" for name in ("os", "architecture")]
    tag = notes.get(_TAG) if isinstance(notes, dict) else ""
    system, architecture, tag = [word if isinstance(word, str) else "" for word in (*words, tag)]
    return Descriptor(kind, digest, size, system, architecture, tag)


def _list(raw: dict[str, Any], name: str, where: str) -> list[Any]:
    found = raw.get(name)
    if not isinstance(found, list):
        raise OciImageError(f"{where}: {name} is no list")
    return found


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OciImageError(f"its {where} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise OciImageError(f"its {where} is no JSON object")
    return found
