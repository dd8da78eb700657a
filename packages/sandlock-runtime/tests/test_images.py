"""Images: what is laid into a root is what the image says, and a hostile one reaches nothing outside it."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandlock_runtime.images import layer as layers
from sandlock_runtime.images import unpack
from sandlock_runtime.images.cache import list_images, remove_image, unpack_image
from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.hold import cache_folder, hold_root
from sandlock_testkit.oci import OciLayout, entry, layer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def oci(home: Path) -> OciLayout:
    return OciLayout(home / "oci")


def unpacked(oci: OciLayout, *archives: bytes, **fields: Any) -> Path:
    """The root of an image with these layers, the only one of the layout."""
    oci.manifests.clear()
    oci.add(*archives, **fields)
    return Path(unpack_image(f"oci:{oci.path}").root)


def names(root: Path) -> set[str]:
    """What is in the root beside what every root gets."""
    own = ("dev", "proc", "sys", "tmp", "run", "root", "etc/hosts", "etc/hostname", "etc/resolv.conf")
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {name for name in found if name not in own and name.split("/")[0] not in ("dev", "etc")}


@pytest.mark.parametrize("compress", ["", "gzip", "zstd"])
def test_layers_lie_over_each_other(oci: OciLayout, compress: str) -> None:
    low = layer(
        entry("./"), entry("a", b"low"), entry("b", b"b"), entry("d/sub/x", b"x"), entry("d/y", b"y"),
        entry("run.sh", b"#!", mode=0o4755), entry("hard", type=tarfile.LNKTYPE, linkname="a"), entry("f", "a"),
    )  # fmt: skip
    high = layer(
        entry("a", b"high"), entry(".wh.b", b""), entry("d"), entry("d/own", b"own"), entry("d/.wh..wh..opq", b""),
        entry("d/sub/z", b"z"), entry("gone/.wh.it", b""), entry("new/deep/er", b"", mode=0),
    )  # fmt: skip
    root = unpacked(oci, low, high, compress=compress)
    assert names(root) == {"a", "d", "d/own", "d/sub", "d/sub/z", "hard", "f", "run.sh", "new", "new/deep",
                           "new/deep/er"}  # fmt: skip
    assert (root / "a").read_text() == "high"
    assert (root / "hard").read_text() == "low", "a file is replaced, never written through another name of it"
    assert os.readlink(root / "f") == "a"
    assert (root / "run.sh").stat().st_mode & 0o7777 == 0o755, "no set-user-ID outside of images"
    assert (root / "new/deep/er").stat().st_mode & 0o777 == 0o400
    assert int((root / "a").stat().st_mtime) == 1_600_000_000
    assert (root / "dev/null").is_file()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_a_folder_replaces_a_link_and_a_file_a_folder(oci: OciLayout) -> None:
    low = layer(entry("usr/lib/x", b"x"), entry("lib", "usr/lib"), entry("opt", "/usr"), entry("d/e/f", b""))
    high = layer(entry("lib/y", b"y"), entry("opt"), entry("opt/z", b"z"), entry("d", b"file"))
    root = unpacked(oci, low, high)
    assert (root / "usr/lib/y").read_text() == "y", "below a link of a lower layer"
    assert (root / "lib").is_symlink()
    assert not (root / "opt").is_symlink()
    assert not (root / "usr/z").exists()
    assert (root / "d").read_text() == "file"


def test_a_folder_in_the_place_of_a_file_or_a_link_hides_nothing_elsewhere(oci: OciLayout) -> None:
    """Engines write an opaque mark into every folder that covers something; what it covered need be no folder."""
    low = layer(
        entry("file", b"low"), entry("link", "kept"), entry("loop", "loop"), entry("kept"), entry("kept/x", b"x"),
        entry("through", "kept"), entry("kept/y", b"y"),
    )  # fmt: skip
    opaque = [one for name in ("file", "link", "loop") for one in (entry(name), entry(f"{name}/.wh..wh..opq", b""))]
    high = layer(*opaque, entry("file/in", b"in"), entry("link/in", b"in"), entry("link/.wh.x", b""),
                 entry("through/.wh.y", b""))  # fmt: skip
    root = unpacked(oci, low, high)
    assert names(root) == {"file", "file/in", "link", "link/in", "loop", "kept", "kept/x", "through"}
    assert (root / "through").is_symlink(), "the layer has no folder of its own there: it is followed"


def test_names_twice_the_later_one_counts(oci: OciLayout) -> None:
    twice = layer(entry("a", b"1"), entry("l", "a"), entry("l", b"2"), entry("a"), entry("a/b", b"3"))
    root = unpacked(oci, twice)
    assert names(root) == {"a", "a/b", "l"}
    assert (root / "l").read_text() == "2"


def test_names_are_bytes(oci: OciLayout) -> None:
    odd = os.fsdecode(b"\xff\n\\ ")
    long = "/".join(["n" * 200] * 8)
    root = unpacked(oci, layer(entry(odd, b"1"), entry(long, b"2"), entry("/absolute", b"3")))
    assert (root / odd).read_bytes() == b"1"
    assert (root / long).read_bytes() == b"2"
    assert (root / "absolute").read_bytes() == b"3", "the root is the image's"


def victim(home: Path) -> Path:
    """A folder of the user's beside the cache, with a file in it."""
    folder = home / "victim"
    folder.mkdir(exist_ok=True)
    (folder / "kept").write_text("kept")
    return folder


@pytest.mark.parametrize("link", ["{victim}", "../../../../../victim", "/proc/self/cwd/../../victim"])
def test_no_entry_follows_a_link_out_of_the_root(home: Path, oci: OciLayout, link: str) -> None:
    target = victim(home)
    attack = layer(
        entry("out", link.format(victim=target)), entry("out/made", b"owned"), entry("out/kept", b"owned"),
        entry("file", f"{target}/kept"), entry("file", b"owned"),
        entry("again", f"{target}/kept"), entry("name", type=tarfile.LNKTYPE, linkname="again"),
    )  # fmt: skip
    second = layer(entry("out/.wh.kept", b""), entry("name", b"owned"), entry("out/.wh..wh..opq", b""))
    try:
        root = unpacked(oci, attack, second)
    except OciImageError:
        root = None
    assert os.listdir(target) == ["kept"]
    assert (target / "kept").read_text() == "kept"
    if root is not None:
        assert (root / "file").read_text() == "owned"
    # The positive control: a link within the root is followed, and what is below it is written.
    root = unpacked(oci, layer(entry("in"), entry("out", "/in"), entry("out/made", b"made")))
    assert (root / "in/made").read_text() == "made"


def hostile(home: Path) -> dict[str, list[bytes]]:
    """Name -> layers that are refused."""

    def tampered(field: slice, value: bytes) -> bytes:
        raw = bytearray(layer(entry("a", b"x")))
        raw[field] = value
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
        return bytes(raw)

    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 8 << 30
    sparse = layer(entry("s", b""))
    return {
        "dots in a name": [layer(entry("a/../../x", b""))],
        "dots alone": [layer(entry("..", b""))],
        "dots in a hard link": [layer(entry("x", type=tarfile.LNKTYPE, linkname="../../etc/passwd"))],
        "a hard link to outside": [layer(entry("x", type=tarfile.LNKTYPE, linkname=f"{home}/victim/kept"))],
        "a hard link through a link": [
            layer(entry("o", f"{home}/victim"), entry("x", type=tarfile.LNKTYPE, linkname="o/kept"))],
        "a hard link to a folder": [layer(entry("d"), entry("x", type=tarfile.LNKTYPE, linkname="d"))],
        "a hard link to nothing": [layer(entry("x", type=tarfile.LNKTYPE, linkname="/"))],
        "a file for a folder": [layer(entry("a", b""), entry("a/b", b""))],
        "links in a circle": [layer(entry("a", "b"), entry("b", "a"), entry("a/c", b""))],
        "a name too long": [layer(entry("n" * 300, b""))],
        "a path too long": [layer(entry("n/" * 3000, b"x"))],
        "a whiteout of nothing": [layer(entry(".wh.", b""))],
        "a whiteout of the parent": [layer(entry(".wh...", b""))],
        "a header of 8 GiB": [pax.tobuf(tarfile.GNU_FORMAT)],
        "a file without its end": [layer(entry("a", b"x" * 4096))[:2048]],
        "a size below zero": [tampered(slice(124, 136), b"\xff" * 12)],
        "an unknown kind": [tampered(slice(156, 157), b"Y")],
        "no archive": [os.urandom(4096)],
        "rubbish behind the first": [layer(entry("a", b"x"))[:1024] + b"rubbish" * 200],
        "headers in headers": [layer(entry("p" * 200, b""))[:1024] * 3000],
        "no folder for proc": [layer(entry("proc", "/etc"))],
        "a file for dev": [layer(entry("dev", b""))],
        "sparse": [sparse[:156] + b"S" + sparse[157:]],
    }  # fmt: skip


@pytest.mark.parametrize("name", list(hostile(Path("x"))))
def test_hostile_layers_are_refused_and_leave_nothing(home: Path, oci: OciLayout, name: str) -> None:
    target = victim(home)
    with pytest.raises(OciImageError) as caught:
        unpacked(oci, *hostile(home)[name])
    assert f"oci:{oci.path}" in str(caught.value)
    assert os.listdir(cache_folder()) == []
    assert os.listdir(target) == ["kept"]
    assert (target / "kept").stat().st_nlink == 1


@pytest.mark.parametrize("compress", ["gzip", "zstd"])
def test_a_bomb_is_bounded(oci: OciLayout, monkeypatch: pytest.MonkeyPatch, compress: str) -> None:
    monkeypatch.setattr(layers, "_LEAST", 1 << 20)
    zeros = layer(entry("zeros", bytes(16 << 20)))
    with pytest.raises(OciImageError, match="64 times its size"):
        unpacked(oci, zeros, compress=compress)
    assert os.listdir(cache_folder()) == []
    assert (unpacked(oci, zeros, compress="") / "zeros").stat().st_size == 16 << 20, "what is stored so is no bomb"


def test_a_layer_of_several_gzip_members_is_one_and_a_long_header_costs_little() -> None:
    """The standard library reads the name in a header byte by byte: minutes for one of 64 MiB."""
    content = [os.urandom(100_000), bytes(3 << 20), b"", b"end"]
    parts = [gzip.compress(part) for part in content]
    named = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (8 << 20) + b"\0" + parts[0][10:]
    whole = b"".join(content)
    for data in (named + b"".join(parts[1:]), b"".join(parts), b"".join(parts) + bytes(512)):
        reader = layers._Gzip(io.BytesIO(data))
        started = time.monotonic()
        assert b"".join(iter(partial(reader.read, 10_000), b"")) == whole
        assert time.monotonic() - started < 20
    for data in (b"".join(parts)[:-1], parts[0] + b"rubbish", named[:100_000], parts[1][:-20]):
        reader = layers._Gzip(io.BytesIO(data))
        with pytest.raises((EOFError, zlib.error)):
            b"".join(iter(partial(reader.read, 1 << 20), b""))


def test_entries_are_bounded(oci: OciLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_MOST_ENTRIES", 100)
    with pytest.raises(OciImageError, match="more than 100 entries"):
        unpacked(oci, layer(*[entry(f"f{number}", b"") for number in range(200)]))
    with pytest.raises(OciImageError, match="more than 100 entries"):
        unpacked(oci, layer(entry("d/" * 150 + "x", b"")))
    assert unpacked(oci, layer(*[entry(f"f{number}", b"") for number in range(90)])).is_dir()


def test_indexes_that_name_the_same_a_thousand_times_are_read_once(oci: OciLayout) -> None:
    """A thousand times the same index in each of four is 10^12 of them in a few kilobytes."""
    oci.add(layer(entry("a", b"")))
    for _ in range(3):
        inner = json.dumps({"schemaVersion": 2, "manifests": oci.manifests * 1000}).encode()
        oci.manifests[:] = [oci.blob(inner, "application/vnd.oci.image.index.v1+json")]
    oci.manifests[:] = oci.manifests * 1000
    oci.save()
    assert names(Path(unpack_image(f"oci:{oci.path}").root)) == {"a"}
    kind = "application/vnd.oci.image.index.v1+json"
    several = [json.dumps({"manifests": [], "n": number}).encode() for number in range(101)]
    oci.manifests[:] = [oci.blob(one, kind) for one in several]
    oci.save()
    with pytest.raises(OciImageError, match="more than 100 indexes"):
        unpack_image(f"oci:{oci.path}")


def test_devices_are_left_out(oci: OciLayout) -> None:
    forged = entry("hidden", type=tarfile.CHRTYPE, devmajor=0, devminor=0)
    disk = entry("dev/sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0)
    null = entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    marked = entry("d", pax_headers={"SCHILY.xattr.user.overlay.opaque": "y"})
    root = unpacked(oci, layer(forged, disk, null, marked, entry("fifo", type=tarfile.FIFOTYPE)))
    assert names(root) == {"d", "fifo"}
    assert not (root / "dev/sda").exists()
    assert (root / "dev/null").is_file()
    assert (root / "fifo").is_fifo()
    assert "user.overlay.opaque" not in os.listxattr(root / "d")


def broken(oci: OciLayout, name: str) -> None:
    """Damage a good layout in one way."""
    blobs = {path.stat().st_size: path for path in (oci.path / "blobs/sha256").iterdir()}
    manifest = json.loads((oci.path / "blobs" / oci.manifests[0]["digest"].replace(":", "/")).read_bytes())
    stored = oci.path / "blobs" / manifest["layers"][0]["digest"].replace(":", "/")
    entry_of_index = oci.manifests[0]
    if name == "other bytes":
        stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    elif name == "bytes behind":
        stored.write_bytes(stored.read_bytes() + b"x")
    elif name == "a fifo":
        stored.unlink()
        os.mkfifo(stored)
    elif name == "a link":
        stored.rename(oci.path / "elsewhere")
        stored.symlink_to("../../elsewhere")
    elif name == "no blob":
        stored.unlink()
    elif name == "another archive":
        manifest["layers"][0] = oci.blob(gzip.compress(layer(entry("evil", b""))), manifest["layers"][0]["mediaType"])
        oci.manifests.clear()
        oci.add_manifest(manifest)
    elif name == "a digest that is a path":
        entry_of_index["digest"] = "sha256:../../../../etc/passwd"
    elif name == "an unknown digest":
        entry_of_index["digest"] = "md5:" + "0" * 32
    elif name == "an unknown layer":
        manifest["layers"][0]["mediaType"] = "application/x-lz4"
        oci.manifests.clear()
        oci.add_manifest(manifest)
    elif name == "a layer too many":
        manifest["layers"].append(manifest["layers"][0])
        oci.manifests.clear()
        oci.add_manifest(manifest)
    elif name == "no index":
        (oci.path / "index.json").unlink()
    elif name == "an index of nothing":
        (oci.path / "index.json").write_text("[" * 100_000)
    elif name == "no layout":
        (oci.path / "oci-layout").write_text("{}")
    else:
        entry_of_index["size"] = "big"
    assert blobs
    oci.save() if name not in ("no index", "an index of nothing") else None


@pytest.mark.parametrize(
    "name",
    [
        "other bytes", "bytes behind", "a fifo", "a link", "no blob", "another archive", "a digest that is a path",
        "an unknown digest", "an unknown layer", "a layer too many", "no index", "an index of nothing", "no layout",
        "a size that is a word",
    ],
)  # fmt: skip
def test_an_image_that_is_not_what_it_says_is_refused(oci: OciLayout, name: str) -> None:
    oci.add(layer(entry("a", b"x")))
    broken(oci, name)
    with pytest.raises(OciImageError) as caught:
        unpack_image(f"oci:{oci.path}")
    assert caught.value.image == f"oci:{oci.path}"
    assert list_images() == ()


def test_the_machine_and_the_tag_choose(oci: OciLayout) -> None:
    foreign = "aarch64" if os.uname().machine != "aarch64" else "x86_64"
    other = oci.add(layer(entry("other", b"")), machine=foreign)
    with pytest.raises(OciImageError, match="none for this machine"):
        unpack_image(f"oci:{oci.path}")
    one = oci.add(layer(entry("one", b"")), tag="v1")
    assert unpack_image(f"oci:{oci.path}").digest == one != other
    two = oci.add(layer(entry("two", b"")), tag="v2")
    with pytest.raises(OciImageError, match=r"2 images.*v1, v2"):
        unpack_image(f"oci:{oci.path}")
    assert unpack_image(f"oci:{oci.path}:v2").digest == two
    with pytest.raises(OciImageError, match=r"no tag 'v3'.*v1, v2"):
        unpack_image(f"oci:{oci.path}:v3")
    oci.manifests.clear()
    oci.add(layer(entry("lying", b"")), machine=foreign, platform=False)
    with pytest.raises(OciImageError, match="it is for linux/"):
        unpack_image(f"oci:{oci.path}")


def test_an_index_may_lead_to_another_one(oci: OciLayout) -> None:
    digest = oci.add(layer(entry("a", b"")))
    kind = "application/vnd.oci.image.index.v1+json"
    for _ in range(2):
        oci.manifests[:] = [oci.blob(json.dumps({"manifests": oci.manifests}).encode(), kind)]
        oci.save()
    assert unpack_image(f"oci:{oci.path}").digest == digest
    for _ in range(4):
        oci.manifests[:] = [oci.blob(json.dumps({"manifests": oci.manifests}).encode(), kind)]
        oci.save()
    with pytest.raises(OciImageError, match="indexes"):
        unpack_image(f"oci:{oci.path}")


def test_an_archive_is_read_in_place(home: Path, oci: OciLayout) -> None:
    digest = oci.add(layer(entry("a", b"x")))
    file = oci.archive(home / "image.tar")
    assert unpack_image(f"oci-archive:{file}").digest == digest
    packed = home / "image.tar.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(OciImageError, match="decompress"):
        unpack_image(f"oci-archive:{packed}")
    with tarfile.open(file, "a") as archive:
        archive.add(oci.path / "index.json", "./index.json")
    with pytest.raises(OciImageError, match="twice"):
        unpack_image(f"oci-archive:{file}")


@pytest.mark.parametrize("reference", ["oci:{home}/none", "oci-archive:{home}/none", "oci:{home}/file", "oci:{home}"])
def test_what_is_no_image_is_named(home: Path, reference: str) -> None:
    (home / "file").write_text("")
    with pytest.raises(OciImageError, match=str(home)):
        unpack_image(reference.format(home=home))


def test_without_the_package_zstd_names_its_remedy(oci: OciLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(OciImageError, match=r"pip install 'sandlock-runtime\[zstd\]'"):
        layers.check_compression("application/vnd.oci.image.layer.v1.tar+zstd")
    assert unpacked(oci, layer(entry("a", b""))).is_dir(), "gzip needs nothing"


def test_a_cached_image_is_taken_as_it_is(oci: OciLayout) -> None:
    oci.add(layer(entry("a", b"x")), Env=["A=1"], User="me:you", Entrypoint=["/x"], Cmd=["y"], WorkingDir="/w")
    told: list[tuple[int, int]] = []
    image = unpack_image(f"oci:{oci.path}", lambda done, whole: told.append((done, whole)))
    assert told[-1][0] == told[-1][1] > 0
    assert (image.config.env, image.config.cwd) == ({"A": "1"}, "/w")
    assert (image.config.entrypoint, image.config.command, image.config.user) == (("/x",), ("y",), "me:you")
    assert Path(image.root, "w").is_dir()
    assert unpack_image(f"oci:{oci.path}", lambda *_: pytest.fail("nothing is unpacked")) == image
    assert list_images() == (image,)


@pytest.mark.parametrize("config", [{"Env": ["=x"]}, {"Env": "A=1"}, {"WorkingDir": "w"}, {"WorkingDir": "/${HOME}"},
                                    {"Cmd": [1]}, {"Entrypoint": ["a\0b"]}, {"User": 5}])  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(oci: OciLayout, config: dict[str, Any]) -> None:
    with pytest.raises(OciImageError):
        unpacked(oci, layer(entry("a", b"")), **config)


def test_two_at_once_unpack_it_once(oci: OciLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    oci.add(layer(entry("a", b"x")))
    laid = []
    real = unpack.hide

    def slow(*args: Any) -> None:
        laid.append(threading.get_ident())
        threading.Event().wait(0.2)
        real(*args)

    from sandlock_runtime.images import cache

    monkeypatch.setattr(cache, "hide", slow)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(unpack_image(f"oci:{oci.path}").root)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == len(laid) == 1
    assert os.listdir(cache_folder()) == [os.path.basename(os.path.dirname(found[0]))]


def test_one_that_was_killed_halfway_is_begun_anew(home: Path, oci: OciLayout) -> None:
    oci.add(layer(entry("a", b"x")), layer(entry("b", b"x")))
    code = """
import os, sys
from sandlock_runtime.images import cache
real = cache.lay
def lay(*args):
    real(*args)
    os.kill(os.getpid(), 9)
cache.lay = lay
cache.unpack_image(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", code, f"oci:{oci.path}"], check=False, timeout=60)
    assert done.returncode == -9
    (left,) = os.listdir(cache_folder())
    assert left.startswith(".new-")
    assert list_images() == ()
    root = Path(unpack_image(f"oci:{oci.path}").root)
    assert names(root) == {"a", "b"}
    assert os.listdir(cache_folder()) == [root.parent.name]


def test_an_image_in_use_is_not_removed(oci: OciLayout) -> None:
    oci.add(layer(entry("a", b"x"), entry("d"), entry("d/closed", b"", mode=0)))
    image = unpack_image(f"oci:{oci.path}")
    held = hold_root(image.root)
    with pytest.raises(OciImageError, match="a run uses it"):
        remove_image(image.digest)
    os.close(held)
    for wrong in ("", "sha256:", "0" * 64, "../x"):
        with pytest.raises(OciImageError, match="sandlock images"):
            remove_image(wrong)
    assert remove_image(image.digest[7:15]) == image
    assert os.listdir(cache_folder()) == []
    assert hold_root(str(oci.path)) == -1


def test_a_cache_that_others_can_write_is_not_used(home: Path, oci: OciLayout) -> None:
    oci.add(layer(entry("a", b"x")))
    os.makedirs(cache_folder())
    Path(cache_folder()).chmod(0o777)
    with pytest.raises(OciImageError, match="can be written by others"):
        unpack_image(f"oci:{oci.path}")


def test_a_full_disk_leaves_nothing(oci: OciLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    oci.add(layer(entry("a", b"x"), entry("b", b"y" * 4096)))
    real: Callable[..., int] = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) > 100:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OciImageError, match="No space left"):
        unpack_image(f"oci:{oci.path}")
    assert os.listdir(cache_folder()) == []
