"""The same calls under every layer of the view: plain, denied paths, copy-on-write, another root, mounts, both ways."""

# ruff: noqa: E501  # tables of calls in the text of programs

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandlock import Sandbox
from sandlock_arch import native

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs("landlock", level=3)]

PYTHON = "/usr/bin/python3"
SHOWN = pytest.mark.needs("mount_namespace")
LAYERS = {
    "plain": {},
    "denied": {"fs_denied": ["{base}/secret"]},
    "named": {"name": "inside", "fs_readable": ["/proc"]},
    "branch": {"workdir": "{base}/work", "fs_storage": "{base}/storage", "on_exit": "commit"},
    "root": {"chroot": "{base}/root"},
    "mounts": {"fs_mount": {"/mnt": "{base}/work"}, "chroot": "{base}/root"},
}
WAYS = [pytest.param("auto", marks=SHOWN), pytest.param("off", id="served")]


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every user reaches: a tree to work in, the same as a root, and a secret."""
    made = Path(tempfile.mkdtemp(prefix="sandlock-layers-"))
    made.chmod(0o755)
    make(made)
    yield made
    shutil.rmtree(made)


def make(base: Path) -> None:
    for tree in (base / "work", base / "bare", base / "root/work"):
        tree.mkdir(parents=True)
        for name in ("file", "two", "set"):
            (tree / name).write_text(name)
        (tree / "set").chmod(0o755)
        (tree / "folder").mkdir()
        (tree / "link").symlink_to("file")
    for name in ("usr", "dev", "mnt", "proc", "tmp"):
        (base / "root" / name).mkdir()
    for name in ("bin", "lib", "lib64"):
        (base / "root" / name).symlink_to(f"usr/{name}")
    (base / "root/dev/null").touch()
    (base / "secret").write_text("secret")


def filled(value: Any, base: Path) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, base) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, base) for item in value]
    return value.replace("{base}", str(base)) if isinstance(value, str) else value


def inside(base: Path, layer: str, way: str, code: str, *arguments: str) -> list[str]:
    """What a program says below a layer; its working directory is the tree that it may write to."""
    fields = filled(LAYERS[layer], base)
    rooted = "chroot" in fields
    work = "/mnt" if layer == "mounts" else "/work" if rooted else str(base / "work")
    read = [*fields.pop("fs_readable", []), *(["/"] if rooted else ["/usr", "-/bin", "-/lib", "-/lib64", str(base)])]
    if rooted:
        fields["fs_mount_ro"] = {"/usr": "/usr"}
    if "workdir" not in fields:
        fields["fs_writable"] = [work]
    box = Sandbox(namespaces=way, fs_readable=read, cwd=work, env={"PATH": "/usr/bin:/bin"}, **fields)
    result = box.run([PYTHON, "-I", "-S", "-c", code, *arguments], timeout=60)
    assert result.success, (result.stderr.decode()[-1500:], result.error)
    return result.stdout.decode().splitlines()


HANDLES = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def told(at, path, flags):
    handle, mount = ctypes.create_string_buffer((128).to_bytes(4, "little") + bytes(132), 136), ctypes.c_long()
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(int(sys.argv[1])), at, path, handle, ctypes.byref(mount), flags)
    return "handle" if result == 0 else errno.errorcode[ctypes.get_errno()]
for path in (b"file", b"folder", b"link", os.getcwdb() + b"/file", b"absent", b".", b"/", b"/usr"):
    for flags in (0, 0x400, 0x200, 0x1): print(told(-100, path, flags))
for path in ("file", "folder"):
    fd = os.open(path, 0)
    for flags in (0x1000, 0x1200): print(told(fd, b"", flags))
"""  # AT_SYMLINK_FOLLOW, AT_HANDLE_FID, AT_HANDLE_MNT_ID_UNIQUE, AT_EMPTY_PATH


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_gives_a_handle_of_a_file(base: Path, layer: str, way: str) -> None:
    number = str(native().syscalls["name_to_handle_at"])
    bare = subprocess.run([PYTHON, "-c", HANDLES, number], cwd=base / "bare", capture_output=True, check=True)
    assert bare.stdout.split().count(b"handle") > 10, "bare there are handles"
    assert set(inside(base, layer, way, HANDLES, number)) == {"EPERM"}


OWNERS = """
import errno, os, stat, sys
groups = [int(text) for text in sys.argv[1].split(",")]
me = os.getuid()
def seen(path):
    found = os.lstat(path)
    return found.st_uid, found.st_gid, oct(found.st_mode)
def tried(act):
    try: return act()
    except OSError as error: return errno.errorcode[error.errno]
for path in ("file", "set", "folder", "link"):
    for uid in (-1, me, 4321):
        for gid in (*groups, -1, 54321, groups[0]):
            done = [tried(lambda: os.chown(path, uid, gid)), seen(path), tried(lambda: os.lchown(path, uid, gid)), seen(path)]
            if path != "link":
                fd = os.open(path, 0)
                done += [tried(lambda: os.fchown(fd, uid, gid)), seen(path), tried(lambda: os.chown(fd, uid, gid))]
                os.close(fd)
            print(path, uid, gid, done, seen("file"))
    if path == "set": os.chmod(path, 0o711)
os.chown("two", -1, groups[-1]); os.chown("link", -1, groups[-1], follow_symlinks=False)
print(seen("two"), seen("link"))
"""


def owners(base: Path, layer: str, groups: str) -> None:
    """Change owners and groups below a layer as bare: the same answers, the same owners afterwards."""
    argv = [PYTHON, "-I", "-S", "-c", OWNERS, groups]
    before = [json.dumps(list(row)) for row in owned(base / "bare")]
    bare = subprocess.run(argv, cwd=base / "bare", capture_output=True, check=True)
    assert inside(base, layer, "off", OWNERS, groups) == bare.stdout.decode().splitlines()
    tree = base / ("root/work" if layer == "root" else "work")
    assert owned(tree) == owned(base / "bare")
    assert [json.dumps(list(row)) for row in owned(tree)] != before or "," not in groups


def owned(tree: Path) -> list[tuple[object, ...]]:
    found = [(path.name, path.lstat()) for path in sorted(tree.iterdir())]
    return [(name, status.st_uid, status.st_gid, status.st_mode) for name, status in found]


@pytest.mark.parametrize("layer", ["branch", "root", "mounts"])
def test_owners_change_where_files_are_served_as_the_kernel_lets_them(base: Path, layer: str) -> None:
    """Root is not root inside, so the comparison is with a user: this one, or one of three groups."""
    if os.getuid():
        groups = sorted({os.getgid(), *os.getgroups()})
        owners(base, layer, ",".join(map(str, groups)))
        return
    for path in (base, *base.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    code = "import sys; sys.path[:0] = sys.argv[4:]\nfrom pathlib import Path\nimport test_files_layers as t\nt.owners(Path(sys.argv[1]), sys.argv[2], sys.argv[3])"
    groups = [65534, 31001, 31002]
    done = subprocess.run(
        [sys.executable, "-c", code, str(base), layer, ",".join(map(str, groups)), os.path.dirname(__file__), *filter(None, sys.path)],
        user=65534, group=65534, extra_groups=groups, capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, "HOME": str(base)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
