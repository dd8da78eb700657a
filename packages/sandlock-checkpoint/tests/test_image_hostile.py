"""An image that someone has prepared: refused with the file and the field, before anything is made of it."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from image_samples import PAGE, big, contents_of, files_below, sample

import sandlock_checkpoint
from sandlock_checkpoint import image
from sandlock_checkpoint.errors import ImageError
from sandlock_checkpoint.image.check import check_checkpoint
from sandlock_checkpoint.image.cow import digest_branch
from sandlock_checkpoint.image.format import LIMITS
from sandlock_checkpoint.image.meta import digest_of
from sandlock_checkpoint.memory import Run
from sandlock_checkpoint.model import Checkpoint

MAP = "process/memory_map.json"
INFO = "process/info.json"
FDS = "process/fds.json"
THREAD = "process/threads/0.json"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    image.save(sample(), tmp_path / "image")
    return tmp_path / "image"


def reseal(path: Path, replaced: dict[str, bytes]) -> None:
    """Write files, and make all checksums right: an attacker can do that too."""
    for name, data in replaced.items():
        (path / name).write_bytes(data)
    meta = json.loads((path / "meta.json").read_bytes())
    for one in meta["files"]:
        if one["name"] in replaced:
            data = replaced[one["name"]]
            one |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    meta["sha256"] = digest_of(meta)
    (path / "meta.json").write_text(json.dumps(meta))


def edit(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change what a JSON file holds, with right checksums."""
    value = json.loads((path / name).read_bytes())
    changed = change(value)
    data = json.dumps(value if changed is None else changed).encode()
    reseal(path, {name: data})
    if name == "meta.json":
        value = json.loads(data)
        value["sha256"] = digest_of(value)
        (path / name).write_text(json.dumps(value))


def refused(path: Path, *words: str) -> ImageError:
    with pytest.raises(ImageError) as caught:
        image.load(path)
    for word in words:
        assert word in str(caught.value)
    return caught.value


def test_an_edited_image_with_right_checksums_loads_where_the_edit_is_harmless(saved: Path) -> None:
    edit(saved, MAP, lambda found: found["mappings"][0]["mapping"].update(name="[other]"))
    edit(saved, "meta.json", lambda found: found.update(kernel="7.0"))
    with image.load(saved) as loaded:
        assert (loaded.processes[0].mappings[0].name, loaded.kernel) == (b"[other]", "7.0")


def mapping(**fields: object) -> Callable[[Any], None]:
    return lambda found: found["mappings"][0]["mapping"].update(fields)


def state(**fields: object) -> Callable[[Any], None]:
    """Change fields of a thread's state; scheduling__nice is `nice` in `scheduling`."""

    def change(found: Any) -> None:
        for name, value in fields.items():
            outer, _, inner = name.partition("__")
            if inner:
                found["state"][outer][inner] = value
            else:
                found["state"][outer] = value

    return change


def unconnected(**fields: object) -> Callable[[Any], None]:
    whole = {"is": "UnconnectedSocket", "family": 2, "type": 1, "protocol": 0, "address": "", "backlog": -1}
    return lambda found: found["files"][0].update(target=whole | {"options": []} | fields)


def contents(**fields: object) -> Callable[[Any], None]:
    return lambda found: found["mappings"][0]["contents"].update(fields)


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        # CK-05: sizes that lie
        (MAP, mapping(end=1 << 63), "mappings[0].mapping.end"),
        (MAP, mapping(start=-4096), "mappings[0].mapping.start"),
        (MAP, mapping(start=1 << 70), "mappings[0].mapping.start"),
        (MAP, mapping(end=0x5555000), "mappings[0].mapping.end"),
        (MAP, mapping(runs=[0, 1 << 62]), "contents"),
        (MAP, mapping(runs=[0, 4096, 0, 4096]), "by its runs"),
        (MAP, mapping(runs=[8192, 4096, 0, 4096]), "by its runs"),
        (MAP, mapping(runs=[0]), "mapping.runs"),
        (MAP, mapping(runs=[0, -4096]), "mapping.runs[1]"),
        (MAP, mapping(runs=[0, True]), "mapping.runs[1]"),
        (MAP, mapping(runs=[]), "contents"),
        (MAP, mapping(guards=[1 << 40, 4096]), "guards[0]"),
        (MAP, contents(blocks=[]), "contents.blocks"),
        (MAP, contents(blocks=["0" * 64] * 1000), "contents.blocks"),
        (MAP, contents(blocks=["0" * 63 + "G"]), "contents.blocks[0]"),
        (MAP, contents(layout="folded"), "contents.layout"),
        (MAP, contents(stored=[1]), "contents.stored"),
        (MAP, contents(own=[0, 4096]), "by its runs"),
        (MAP, lambda found: found["mappings"].reverse(), "mappings["),
        (MAP, lambda found: found["mappings"].append(found["mappings"][0]), "mappings["),
        (MAP, lambda found: found["shared"][0]["memory"].update(size=1 << 63), "shared[0].memory.size"),
        (MAP, lambda found: found["mappings"][2]["mapping"].update(memory=1), "mappings[2].mapping.memory"),
        (MAP, lambda found: found["mappings"].clear(), ""),
        # CK-06: places that are forbidden
        (MAP, mapping(start=0), "mappings[0].mapping.start"),
        (MAP, mapping(start=0xFFFF800000000000, end=0xFFFF800000010000), "mappings[0].mapping.start"),
        (MAP, mapping(start=0x55550000001), "mappings[0].mapping.start"),
        (MAP, mapping(prot=15), "mappings[0].mapping.prot"),
        # CK-07: a file that is opened again is neither made nor emptied
        ("process/fds.json", lambda found: found["files"][0].update(flags=os.O_RDWR | os.O_TRUNC), "files[0].flags"),
        ("process/fds.json", lambda found: found["files"][0].update(flags=os.O_RDWR | os.O_CREAT), "files[0].flags"),
        # CK-05: numbers that no kernel takes, or that would have this process take memory for them
        (THREAD, state(scheduling__affinity=[1 << 36]), "state.scheduling.affinity"),
        (THREAD, state(scheduling__affinity=[1, 0]), "state.scheduling.affinity"),
        (THREAD, state(scheduling__priority=1 << 40), "state.scheduling.priority"),
        (THREAD, state(scheduling__policy=1 << 31), "state.scheduling.policy"),
        (THREAD, state(scheduling__nice=-21), "state.scheduling.nice"),
        (THREAD, state(signal_stack__flags=1 << 32), "state.signal_stack.flags"),
        (THREAD, state(rseq__address=(1 << 64) - 1), "state.rseq.address"),
        (THREAD, state(restart="exec"), "state.restart"),
        (THREAD, lambda found: found["registers"][1].update(note=1 << 32), "registers[1].note"),
        (INFO, lambda found: found["posix_timers"][0].update(notify=8), "posix_timers[0].notify"),
        (INFO, lambda found: found["posix_timers"][0].update(clock=1 << 31), "posix_timers[0].clock"),
        (INFO, lambda found: found.update(wait_status=0), "wait_status"),
        (FDS, lambda found: found["files"][0]["target"]["locks"][0].update(start=1 << 63), "locks[0].start"),
        (FDS, lambda found: found["files"][0]["target"]["locks"][0].update(start=7, end=6), "locks[0].end"),
        (FDS, lambda found: found["files"][7]["target"]["interests"][0].update(events=1 << 32), "interests[0].events"),
        (FDS, lambda found: found["files"][7]["target"]["interests"][0].update(number=1 << 31), "interests[0].number"),
        (FDS, unconnected(address="00" * 129), "files[0].target.address"),
        (FDS, unconnected(options=[[1, 2, 1 << 31]]), "files[0].target.options[0]"),
        # CK-04: names
        (MAP, contents(file="../../../etc/passwd"), "contents.file"),
        (MAP, contents(file="/etc/passwd"), "contents.file"),
        (MAP, contents(file="memory/1.bin"), "contents.file"),
        ("process/threads/0.json", lambda found: found["registers"][0].update(name="../../meta"), "registers[0].name"),
        ("process/threads/0.json", lambda found: found["registers"][1].update(name="general"), "xstate"),
        ("meta.json", lambda found: found["files"].append(found["files"][0]), "files"),
        ("meta.json", lambda found: found["files"].append({"name": "x", "size": 0, "sha256": "0" * 64}), "files"),
        ("meta.json", lambda found: found["files"].pop() and None, "files"),
        ("meta.json", lambda found: found.update(ancestors=[{"name": "../up", "sha256": "0" * 64}]), "ancestors[0]"),
        ("meta.json", lambda found: found.update(ancestors=[{"name": "..", "sha256": "0" * 64}]), "ancestors[0]"),
        ("meta.json", lambda found: found.update(ancestors=[{"name": "a", "sha256": "0" * 64}] * 99), "ancestors"),
        # CK-03: types
        ("meta.json", lambda found: found.update(page_size="4096"), "page_size"),
        ("meta.json", lambda found: found.update(page_size=3), "page_size"),
        ("meta.json", lambda found: found.update(threads=[1 << 40]), "threads[0]"),
        ("meta.json", lambda found: found.update(threads=[]), "threads"),
        ("meta.json", lambda found: found.update(threads=[3, 2]), "files"),
        ("meta.json", lambda found: found.update(scope="galaxy"), "scope"),
        ("meta.json", lambda found: found.update(version=99), "version"),
        ("meta.json", lambda found: found.update(version=-1), "version"),
        ("meta.json", lambda found: found.update(version=True), "version"),
        ("meta.json", lambda found: found.update(compression="xz"), "compression"),
        ("meta.json", lambda found: found.update(extra=1), "extra"),
        ("meta.json", lambda found: found.update(format="tar"), "format"),
        ("process/info.json", lambda found: found.pop("exe") and None, "exe"),
        ("process/info.json", lambda found: found.update(cwd="relative"), "cwd"),
        ("process/info.json", lambda found: found.update(exe="/a\0b"), "exe"),
        ("process/info.json", lambda found: found.update(pid=0), "pid"),
        ("process/info.json", lambda found: found.update(parent=1), "parent"),
        ("process/info.json", lambda found: found.update(uid=[0, 0]), "uid"),
        ("process/info.json", lambda found: found.update(pending=["00"]), "pending[0]"),
        ("process/info.json", lambda found: found["layout"].update(auxv="0G"), "layout.auxv"),
        ("process/info.json", lambda found: found["actions"][0].update(signal=65), "actions[0].signal"),
        ("process/fds.json", lambda found: found["descriptors"][0].update(file=99), "descriptors[0].file"),
        ("process/fds.json", lambda found: found["descriptors"][1].update(number=0), "descriptors[1].number"),
        ("process/fds.json", lambda found: found["files"][2]["target"].update(pipe=5), "files[2].target.pipe"),
        ("process/fds.json", lambda found: found["files"][2]["target"].update({"is": "object"}), "files[2].target.is"),
        ("process/fds.json", lambda found: found["files"][8]["target"].update(process=7), "files[8].target.process"),
        ("process/fds.json", lambda found: found["pipes"][0].update(capacity=2), "pipes[0].data"),
        ("process-1/fds.json", lambda found: found.update(pipes=[{"capacity": 1, "data": ""}]), "files"),
        (
            "process-1/memory_map.json",
            lambda found: found.update(shared=[{"memory": None, "contents": None}]),
            "shared",
        ),
        ("policy.json", list, ""),
    ],
)
def test_a_lie_is_refused_by_name(saved: Path, name: str, change: Callable[[Any], Any], field: str) -> None:
    image.load(saved).close()
    edit(saved, name, change)
    error = refused(saved, field)
    assert error.file


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"nul", b"[" * 100_000, b'{"a":' * 50_000, b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1.5}',
        b'{"a":1e9}',
        b'{"a":-Infinity}', b'{"a":' + b"9" * 10_000 + b"}", b"\xff\xfe", '{"a":"ä"}'.encode(),
        b"[[]]" * 2, b"[]", b"7",
        b"[" + b"[]," * (1 << 21) + b"[]]", b'{"format":"sandlock-checkpoint","version":1}',
    ],
)  # fmt: skip
def test_bad_json_is_refused_in_bounded_time_and_memory(saved: Path, text: bytes) -> None:
    (saved / "meta.json").write_bytes(text)
    tracemalloc.start()
    started = time.monotonic()
    refused(saved, "meta.json")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert time.monotonic() - started < 5


def test_ck_05_a_huge_file_is_not_read(saved: Path) -> None:
    os.truncate(saved / "meta.json", LIMITS["meta.json"] + 1)
    tracemalloc.start()
    refused(saved, "meta.json", "more than")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_ck_05_a_cut_page_file_is_refused_and_never_filled_with_zeros(tmp_path: Path) -> None:
    image.save(big(4 << 20), tmp_path / "image")
    data = tmp_path / "image/process/memory/0.bin"
    loaded = image.load(tmp_path / "image")
    os.truncate(data, (4 << 20) - 1)
    with pytest.raises(ImageError, match=r"memory/0.bin: has 4194303 bytes"):
        contents_of(loaded)
    loaded.close()
    refused(tmp_path / "image", "memory/0.bin")
    os.truncate(data, 4 << 20)  # the right size again, with a zero for what was cut
    loaded = image.load(tmp_path / "image")
    with pytest.raises(ImageError, match="checksum"):
        contents_of(loaded)
    loaded.close()
    with pytest.raises(ImageError, match="checksum"):
        image.verify(tmp_path / "image")


def test_ck_05_a_zstd_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    image.save(big(PAGE), tmp_path / "image", compression="zstd")
    honest = (tmp_path / "image/process/memory/0.bin").read_bytes()
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    # The third has a header that says one page, and the blocks of one that has a gigabyte.
    for frame in (bomb[:4000], honest * 2, honest[:7] + bomb[9:3000], honest + b"\0", honest[:-1]):
        name = "process/memory/0.bin"
        found = json.loads((tmp_path / "image" / MAP).read_bytes())
        found["mappings"][0]["contents"]["stored"] = [len(frame)]
        (tmp_path / "image" / name).write_bytes(frame)
        reseal(tmp_path / "image", {MAP: json.dumps(found).encode()})
        meta = json.loads((tmp_path / "image/meta.json").read_bytes())
        for one in meta["files"]:
            if one["name"] == name:
                one["size"] = len(frame)
        meta["sha256"] = digest_of(meta)
        (tmp_path / "image/meta.json").write_text(json.dumps(meta))
        tracemalloc.start()
        with pytest.raises(ImageError, match=r"blocks\[0\]|stored\[0\]"):
            image.verify(tmp_path / "image")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def with_mapping(**fields: Any) -> Checkpoint:
    good = big(16 * PAGE)
    (bad,) = (dataclasses.replace(one, **fields) for one in good.processes[0].mappings)
    return dataclasses.replace(good, processes=(dataclasses.replace(good.processes[0], mappings=(bad,)),))


@pytest.mark.parametrize(
    "runs",
    [
        (Run(0, PAGE), Run(0, PAGE)), (Run(PAGE, PAGE), Run(0, PAGE)), (Run(0, 2 * PAGE), Run(PAGE, PAGE)),
        (Run(0, 0),),
        (Run(0, 17 * PAGE),), (Run(1 << 63, PAGE),), (Run(0, 1 << 63),), (Run(1, PAGE),), (Run(0, 5),),
        (Run(-PAGE, PAGE),),
    ],
)  # fmt: skip
def test_ck_05_runs_that_overlap_or_leave_their_area_are_refused(runs: tuple[Run, ...]) -> None:
    check_checkpoint(with_mapping(runs=(Run(0, PAGE), Run(PAGE, 15 * PAGE))))
    with pytest.raises(ImageError, match=r"mappings\[0\].mapping.runs"):
        check_checkpoint(with_mapping(runs=runs))
    with pytest.raises(ImageError, match=r"mappings\[0\].mapping.guards"):
        check_checkpoint(with_mapping(guards=runs))


def replace_with_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def open_to_others(path: Path) -> None:
    path.chmod(0o644)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize("attack", ["symlink", "hardlink", replace_with_fifo, open_to_others, to_folder, Path.unlink])
def test_ck_04_ck_09_every_file_is_the_owners_own(saved: Path, tmp_path: Path, attack: Any) -> None:
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    for name in files_below(saved):
        shutil.copytree(saved, copy)
        image.load(copy).close()
        target = copy / name
        if attack == "symlink":  # out of the image, to a file with the right contents
            target.rename(elsewhere)
            target.symlink_to(elsewhere)
        elif attack == "hardlink":
            os.link(target, elsewhere)
        else:
            attack(target)
        refused(copy, name)
        shutil.rmtree(copy)
        elsewhere.unlink(missing_ok=True)


def test_ck_04_directories_are_no_links_either(saved: Path, tmp_path: Path) -> None:
    for name in ("process/memory", "process/threads", "process"):
        (saved / name).rename(tmp_path / "moved")
        (saved / name).symlink_to(tmp_path / "moved")
        refused(saved, name)
        (saved / name).unlink()
        (tmp_path / "moved").rename(saved / name)
    image.load(saved).close()
    (tmp_path / "link").symlink_to(saved)
    refused(tmp_path / "link", "a link")


@pytest.mark.parametrize("name", ["extra", "process/extra", "process/memory/9.bin", "process/threads/7.json", "cow"])
def test_ck_04_other_members_are_refused(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"")
    refused(saved, name, "no part of this image")


def test_ck_09_directories_open_to_others_are_refused(saved: Path) -> None:
    for name in ("", "process", "process/memory", "process-1/threads"):
        (saved / name).chmod(0o750)
        refused(saved, "chmod -R go=")
        (saved / name).chmod(0o700)
    image.load(saved).close()


def test_ck_09_an_image_of_another_user_is_refused(saved: Path, as_user: Any) -> None:
    other = os.geteuid() + 1
    with pytest.raises(ImageError, match="belongs to user"):
        image.load(saved, owner=other)
    image.load(saved, owner=os.geteuid()).close()


def test_ck_01_the_policy_in_the_image_is_text_and_nothing_more(saved: Path) -> None:
    edit(saved, "policy.json", lambda found: found.update(text="filesystem.write = ['/']"))
    with image.load(saved) as loaded:
        assert loaded.policy == "filesystem.write = ['/']"
        assert isinstance(loaded.policy, str)


def test_a_damaged_page_is_found_by_verify_and_by_reading(saved: Path) -> None:
    data = bytearray((saved / "process/memory/0.bin").read_bytes())
    data[5] ^= 1
    (saved / "process/memory/0.bin").write_bytes(data)
    with pytest.raises(ImageError, match=r"process/memory/0.bin, blocks\[0\]: its checksum"):
        image.verify(saved)
    assert image.show(saved)  # metadata is whole


def test_ck_05_a_snapshot_of_nothing_but_holes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    os.close(os.open(made / "file", os.O_CREAT | os.O_WRONLY, 0o600))
    digest_branch(os.open(made, os.O_RDONLY))
    os.truncate(made / "file", 1 << 40)  # minutes to read, and hours for some of them
    with pytest.raises(ImageError, match="bytes of holes"):
        digest_branch(os.open(made, os.O_RDONLY))


def test_a_save_refuses_what_a_load_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"memory_map.json, mappings\[0\]"):
        image.save(with_mapping(start=1), tmp_path / "image")
    assert os.listdir(tmp_path) == []


def test_ck_03_nothing_in_the_package_can_unpickle_or_evaluate() -> None:
    folder = Path(sandlock_checkpoint.__file__).parent
    forbidden = {"pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle", "copyreg", "tarfile", "zipfile"}
    seen = 0
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module.split(".")[0]}
            seen += bool(names)
            assert not names & forbidden, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, file
    assert seen > 50
