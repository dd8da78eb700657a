"""Tiny OCI images for tests: layers from lists of entries, manifests that one can get wrong on purpose."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

__all__ = ["OciLayout", "entry", "layer"]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def entry(name: str, content: bytes | str | None = None, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return one member of a layer: bytes make a file, text a symlink, None a folder; `fields` are TarInfo's."""
    info = tarfile.TarInfo(name)
    info.mtime = 1_600_000_000
    data = b""
    if content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    elif isinstance(content, str):
        info.type, info.linkname = tarfile.SYMTYPE, content
    else:
        data, info.size = content, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return the archive with these members, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class OciLayout:
    """An image layout in a folder; images are added to it.

    Attributes:
        path: the folder.
        manifests: the entries of its index, written by `save`.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []

    def blob(self, content: bytes, kind: str) -> dict[str, Any]:
        """Store `content`; return its descriptor."""
        digits = hashlib.sha256(content).hexdigest()
        (self.path / "blobs/sha256" / digits).write_bytes(content)
        return {"mediaType": kind, "digest": f"sha256:{digits}", "size": len(content)}

    def add(
        self, *layers: bytes, tag: str = "", machine: str = "", platform: bool = True, compress: str = "gzip",
        **config: Any,
    ) -> str:  # fmt: skip
        """Add an image with these archives as layers, and `config` as its configuration; return its digest.

        `machine` is as uname spells it, this one where it is "". `platform` tells whether the index names it.
        `compress` is "", "gzip" or "zstd".
        """
        known = _ARCHITECTURES.get(machine or os.uname().machine, machine)
        stored = []
        for one in layers:
            packed, suffix = one, ""
            if compress == "gzip":
                packed, suffix = gzip.compress(one, mtime=0), "+gzip"
            elif compress == "zstd":
                import zstandard  # where a test asks for it

                packed, suffix = zstandard.ZstdCompressor().compress(one), "+zstd"
            stored.append(self.blob(packed, _LAYER + suffix))
        ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
        about = {"os": "linux", "architecture": known, "config": config, "rootfs": {"type": "layers", "diff_ids": ids}}
        return self.add_manifest(
            {"schemaVersion": 2, "config": self.blob(json.dumps(about).encode(), _CONFIG),
             "layers": stored},
            tag, known if platform else "",
        )  # fmt: skip

    def add_manifest(self, manifest: dict[str, Any], tag: str = "", architecture: str = "") -> str:
        """Add a manifest as it is, and save the index."""
        found = self.blob(json.dumps(manifest).encode(), _MANIFEST)
        if architecture:
            found["platform"] = {"os": "linux", "architecture": architecture}
        if tag:
            found["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(found)
        self.save()
        digest: str = found["digest"]
        return digest

    def save(self) -> None:
        """Write the index."""
        index = {"schemaVersion": 2, "manifests": self.manifests}
        (self.path / "index.json").write_text(json.dumps(index))

    def archive(self, path: Path) -> Path:
        """Write the layout as an archive to `path`, and return that."""
        with tarfile.open(path, "w") as archive:
            for file in sorted(self.path.rglob("*")):
                archive.add(file, str(file.relative_to(self.path)), recursive=False)
        return path
