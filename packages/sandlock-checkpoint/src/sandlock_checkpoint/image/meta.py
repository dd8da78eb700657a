"""meta.json: written with its own digest, read with everything about the format decided."""

from __future__ import annotations

import dataclasses
import hashlib

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.folder import is_component
from sandlock_checkpoint.image.format import (
    FORMAT,
    LIMITS,
    MAX_ANCESTORS,
    MAX_PROCESSES,
    MAX_THREADS,
    RAW,
    VERSION,
    ZSTD,
    FileEntry,
    Meta,
)
from sandlock_checkpoint.image.schema import decode, encode
from sandlock_checkpoint.image.strict_json import Json, canonical, parse

__all__ = ["check_digest", "decode_meta", "digest_of", "parse_meta", "sealed"]

_FILE = "meta.json"


def digest_of(value: Json) -> str:
    """Return the digest that belongs into meta.json's `sha256`."""
    rest = {key: item for key, item in value.items() if key != "sha256"} if isinstance(value, dict) else value
    return hashlib.sha256(canonical(rest)).hexdigest()


def sealed(meta: Meta) -> tuple[Meta, bytes]:
    """Return `meta` with its digest, and the file's contents."""
    digest = digest_of(encode(meta))
    meta = dataclasses.replace(meta, sha256=digest)
    return meta, canonical(encode(meta)) + b"\n"


def parse_meta(data: bytes) -> tuple[dict[str, Json], int]:
    """Return what is in meta.json, and its format version, which is one that this package knows.

    Raises:
        ImageError: it is no image's, or of a newer version.

    """
    value = parse(data, _FILE)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ImageError(_FILE, "format", f"is not {FORMAT!r}: this is no image")
    version = value.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise ImageError(_FILE, "version", "is no version")
    if version > VERSION:
        raise ImageError(_FILE, "version", f"{version} is newer than {VERSION}; a newer sandlock-checkpoint reads it")
    return value, version


def decode_meta(value: Json) -> Meta:
    """Return meta.json of the present version, checked.

    Raises:
        ImageError: a field is wrong, or its digest does not fit.

    """
    meta = decode(Meta, value, _FILE)
    check_digest(meta.sha256, "sha256")
    if meta.sha256 != digest_of(value):
        raise ImageError(_FILE, "sha256", "does not fit: the file has been changed or damaged")
    if meta.compression not in (RAW, ZSTD):
        raise ImageError(_FILE, "compression", f"{meta.compression!r} is unknown")
    if len(meta.ancestors) > MAX_ANCESTORS:
        raise ImageError(_FILE, "ancestors", f"are more than {MAX_ANCESTORS}")
    for index, ancestor in enumerate(meta.ancestors):
        check_digest(ancestor.sha256, f"ancestors[{index}].sha256")
        if not is_component(ancestor.name):
            raise ImageError(_FILE, f"ancestors[{index}].name", f"{ancestor.name!r} is no name in this directory")
    if not 0 <= meta.unread_bytes < 1 << 63 or (meta.unread_bytes and not meta.ancestors):
        raise ImageError(_FILE, "unread_bytes", f"{meta.unread_bytes} cannot be")
    if meta.cow is not None:
        check_digest(meta.cow.sha256, "cow.sha256")
    if not 1 <= len(meta.threads) <= MAX_PROCESSES:
        raise ImageError(_FILE, "threads", f"are those of {len(meta.threads)} processes")
    for index, count in enumerate(meta.threads):
        if not 0 <= count <= MAX_THREADS:  # a zombie has none
            raise ImageError(_FILE, f"threads[{index}]", f"{count} is not within 0..{MAX_THREADS}")
    _check_files(meta.files)
    return meta


def check_digest(text: str, field: str, file: str = _FILE) -> None:
    """Refuse what is not sha256 in hex, in small letters."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ImageError(file, field, "is no sha256 in hex")


def _check_files(files: tuple[FileEntry, ...]) -> None:
    before = ""
    for index, entry in enumerate(files):
        if entry.name <= before:
            raise ImageError(_FILE, f"files[{index}].name", "is there twice, or out of order")
        before = entry.name
        check_digest(entry.sha256, f"files[{index}].sha256")
        limit = LIMITS.get(entry.name.rpartition("/")[2], 1 << 62)
        if entry.size > limit:
            raise ImageError(_FILE, f"files[{index}].size", f"{entry.size} is more than {limit}")
