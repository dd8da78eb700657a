"""Read an image. Nothing in it is trusted: every name, size, number and checksum is looked at before it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.areas import AncestorAreas, areas_in, parts_of
from sandlock_checkpoint.image.check import check_checkpoint
from sandlock_checkpoint.image.cow import digest_branch
from sandlock_checkpoint.image.format import (
    LIMITS,
    Ancestor,
    Contents,
    Descriptors,
    Meta,
    Policy,
    RegisterFile,
    process_folder,
)
from sandlock_checkpoint.image.parent import Origin, Parent, ancestor_name
from sandlock_checkpoint.image.reader import ImageReader
from sandlock_checkpoint.image.schema import decode
from sandlock_checkpoint.image.source import ImageSource, Part
from sandlock_checkpoint.memory import Area
from sandlock_checkpoint.model import Checkpoint, ProcessInfo, Registers, ThreadState

__all__ = ["load", "load_parent"]


def load(path: str | os.PathLike[str], *, owner: int | None = None) -> Checkpoint:
    """Return the checkpoint in the directory `path`; it holds the image's files open until it is closed.

    All metadata is checked against its checksums now; the contents of memory are when they are read. The image may be
    replaced or removed meanwhile: what was opened stays.

    Arguments:
        path: an image, not a link to one.
        owner: user id that all its files must belong to, the caller's by default; nobody else may have rights to them.

    Raises:
        ImageError: there is no such image, or anything in it is not as it must be.

    """
    return _load(os.fspath(path), owner).checkpoint


def load_parent(path: str, owner: int | None = None) -> Parent:
    """Return the image at `path` as one that others may leave pages to.

    Raises:
        ImageError: as `load`.

    """
    return _load(path, owner)


def _load(path: str, owner: int | None) -> Parent:
    path = os.path.abspath(path)
    with ExitStack() as undo:
        try:
            reader = ImageReader.open(path, owner)
            undo.callback(reader.folder.close)
            ancestors = _open_ancestors(reader, undo)
            parts, contents = _parts(reader, ancestors)
            source = ImageSource([reader.folder, *(one.folder for one in ancestors)], parts)
            checkpoint = _checkpoint(reader, source, path)
            reader.check_names()
            check_checkpoint(checkpoint)
        except OSError as error:
            raise ImageError(path, "", f"could not be read: {error.strerror or error}") from error
        undo.pop_all()
    own = Ancestor(ancestor_name(path), reader.meta.sha256)
    origins = {
        area: tuple(
            [Origin(0, area)] * (len(found) - len(contents[area].inherited))
            + [Origin(one.ancestor + 1, Area(one.process, one.index)) for one in contents[area].inherited]
        )
        for area, found in parts.items()
    }
    return Parent(checkpoint, source, (own, *reader.meta.ancestors), origins, reader.meta.unread_bytes)


def _open_ancestors(reader: ImageReader, undo: ExitStack) -> list[ImageReader]:
    """Open the images beside this one that hold pages of it; each must be the very one that was meant."""
    found: list[ImageReader] = []
    if not reader.meta.ancestors:
        return found
    above = reader.folder.parent()
    try:
        for index, ancestor in enumerate(reader.meta.ancestors):
            field = f"ancestors[{index}]"
            try:
                one = ImageReader.open(ancestor.name, reader.folder.owner, above)
            except ImageError as error:
                raise ImageError(
                    "meta.json", field, f"the parent image {ancestor.name!r} cannot be used: {error}"
                ) from error
            undo.callback(one.folder.close)
            found.append(one)
            if one.meta.sha256 != ancestor.sha256:
                raise ImageError("meta.json", field, f"{ancestor.name!r} is another image than the one it was")
            if one.meta.page_size != reader.meta.page_size:
                raise ImageError("meta.json", field, f"{ancestor.name!r} has pages of another size")
    finally:
        os.close(above)
    return found


def _parts(
    reader: ImageReader, ancestors: Sequence[ImageReader]
) -> tuple[dict[Area, list[Part]], dict[Area, Contents]]:
    parts: dict[Area, list[Part]] = {}
    contents: dict[Area, Contents] = {}
    held = [AncestorAreas(one) for one in ancestors]
    for area, runs, one in areas_in(reader):
        # Order, bounds and page alignment of the runs are looked at by check_checkpoint; here they are only compared.
        parts[area] = parts_of(reader, held, area, runs, one)
        contents[area] = one
    return parts, contents


def _checkpoint(reader: ImageReader, source: ImageSource, path: str) -> Checkpoint:
    meta = reader.meta
    tables = None
    processes = []
    for index in range(len(meta.threads)):
        name = f"{process_folder(index)}/fds.json"
        fds = decode(Descriptors, reader.json(name), name)
        if tables is None:
            tables = fds
        elif fds.files or fds.pipes or fds.sockets:
            raise ImageError(name, "files", "stand with the first process only")
        processes.append(_process(reader, index, fds))
    assert tables is not None, "there is a first process"  # noqa: S101 - the reader has counted them
    policy = decode(Policy, reader.json("policy.json"), "policy.json")
    state = reader.data("app_state.bin", LIMITS["app_state.bin"]) if reader.has("app_state.bin") else None
    return Checkpoint(
        name=meta.name, architecture=meta.architecture, kernel=meta.kernel, page_size=meta.page_size,
        captured_ns=meta.captured_ns, monotonic_ns=meta.monotonic_ns, scope=meta.scope, leave=meta.leave,
        processes=tuple(processes), files=tables.files,
        shared=tuple(one.memory for one in reader.memory_map(0).shared), pipes=tables.pipes, sockets=tables.sockets,
        vdso_digest=meta.vdso_digest, unsupported=meta.unsupported, policy=policy.text, app_state=state,
        cow=_cow(reader, meta, path), source=source,
    )  # fmt: skip


def _process(reader: ImageReader, index: int, fds: Descriptors) -> ProcessInfo:
    folder = process_folder(index)
    name = f"{folder}/info.json"
    return decode(
        ProcessInfo,
        reader.json(name),
        name,
        mappings=tuple(one.mapping for one in reader.memory_map(index).mappings),
        threads=tuple(_thread(reader, f"{folder}/threads/{place}") for place in range(reader.meta.threads[index])),
        descriptors=fds.descriptors,
    )


def _thread(reader: ImageReader, stem: str) -> ThreadState:
    name = f"{stem}.json"
    value = reader.json(name, "thread.json")
    if not isinstance(value, dict) or set(value) != {"registers", "state"}:
        raise ImageError(name, "", "is not an object with registers and state")
    listed = value["registers"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= 64:
        raise ImageError(name, "registers", "is not a list of 1 to 64 register sets")
    registers = []
    for index, one in enumerate(listed):
        found = decode(RegisterFile, one, name, f"registers[{index}]")
        if not found.name or not set(found.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_"):
            # It becomes part of a file's name.
            raise ImageError(name, f"registers[{index}].name", f"{found.name!r} is no name")
        registers.append(Registers(found.name, found.note, reader.data(f"{stem}.{found.name}.bin")))
    return decode(ThreadState, value["state"], name, "state", registers=tuple(registers))


def _cow(reader: ImageReader, meta: Meta, path: str) -> str | None:
    """Return the path of the branch's snapshot, whose contents are as they were saved."""
    if meta.cow is None:
        return None
    fd = reader.folder.open_folder("cow")
    if digest_branch(fd) != meta.cow:
        raise ImageError("cow", "", "has been changed or damaged")
    return os.path.join(path, "cow")
