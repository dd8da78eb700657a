"""Generated files, hidden processes, and listings that differ from the kernel's (INF-01, INF-05, FS-04)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from file_calls import program
from hypothesis import given
from hypothesis import strategies as st
from supervision import Outcome, supervise

from sandlock_notif.fs.layers.virtual import VirtualLayer
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.listing import parse, render
from sandlock_notif.handlers.files.table import FilesTable

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]

READ, ALL = 1 | 4 | 8, (1 << 16) - 1  # LANDLOCK_ACCESS_FS_*, linux/landlock.h

HELPERS = """
def t(label, f, *a, **k):
    try: r = f(*a, **k)
    except OSError as e: r = errno.errorcode[e.errno]
    print(label, "=", r)
def read(path, flags=0, dir_fd=None):
    fd = os.open(path, flags, dir_fd=dir_fd)
    try: return os.read(fd, 100)
    finally: os.close(fd)
"""


def told(outcome: Outcome) -> dict[str, str]:
    assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
    return dict(line.split(" = ", 1) for line in outcome.output.decode(errors="surrogateescape").splitlines())


def served(
    code: str, layer: VirtualLayer | None, *arguments: str, ordered: bool = False, folder: str = "/tmp"
) -> Outcome:
    grants = [(b"/", READ), (os.fsencode(folder), ALL)]
    return supervise(
        program(HELPERS + code, *arguments), FilesTable(View(virtual=layer), ordered=ordered), grants=grants
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(mkdtemp(prefix="sandlock-virtual-"))
    yield made
    shutil.rmtree(made)


def test_a_generated_file_is_read_by_every_alias_and_changed_by_none(folder: Path) -> None:
    (folder / "name").write_text("real")
    (folder / "link").symlink_to("name")
    layer = VirtualLayer()
    layer.add(os.fsencode(folder / "name"), lambda process: b"made for %d" % process.pid)
    layer.add(os.fsencode(folder / "absent"), lambda _: b"from nothing")
    code = """
os.chdir(sys.argv[2]); me = b"made for %d" % os.getpid()
here = os.open(".", os.O_PATH)
for path in ("name", sys.argv[2] + "/name", "link", "./name", "../" + os.path.basename(sys.argv[2]) + "/name",
             "/proc/self/cwd/name"):
    t(path, lambda: read(path) == me)
t("dirfd", lambda: read("name", dir_fd=here) == me)
t("absent", read, "absent")
t("size", lambda: os.stat("name").st_size == len(me)); t("list", lambda: sorted(os.listdir()))
t("absent-size", lambda: os.lstat("absent").st_size)
t("write", read, "name", os.O_WRONLY); t("truncate", os.truncate, "name", 0); t("unlink", os.unlink, "name")
t("onto", os.rename, "link", "name"); t("chmod", os.chmod, "name", 0o777); t("access", os.access, "name", os.R_OK)
t("waccess", os.access, "name", os.W_OK); t("excl", read, "name", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
t("folder", read, "name/"); t("below", read, "name/x")
fd = os.open("name", 0); t("sealed", os.ftruncate, fd, 0)
"""
    answers = told(served(code, layer, str(folder), folder=str(folder)))
    assert answers.pop("list") == "['absent', 'link', 'name']"
    assert answers.pop("absent") == "b'from nothing'"
    assert answers.pop("absent-size") == "12"
    assert answers.pop("waccess") == "False"
    refused = {"write", "truncate", "unlink", "onto", "chmod"}
    assert {answers.pop(label) for label in refused} == {"EACCES"}
    assert answers.pop("excl") == "EEXIST"
    assert (answers.pop("folder"), answers.pop("below")) == ("ENOTDIR", "ENOTDIR")
    assert answers.pop("sealed") in {"EPERM", "EINVAL"}
    assert not {label for label, answer in answers.items() if answer != "True"}
    assert (folder / "name").read_text() == "real"


def test_inf_01_foreign_processes_are_absent_by_every_alias_and_own_ones_are_there() -> None:
    layer = VirtualLayer()
    layer.hide_processes()
    outside = os.getpid()
    code = f"""
pid, me = {outside}, os.getpid()
proc = os.open("/proc", os.O_PATH); mine = os.open("/proc/self", os.O_PATH)
for path in (f"/proc/{{pid}}/status", f"/proc/{{pid}}", "/proc/1/stat", f"/proc/self/../{{pid}}/stat",
             f"//proc/./{{pid}}/",
             f"/proc/self/root/proc/{{pid}}/stat", f"/proc/{{pid}}/task/{{pid}}/stat", f"/proc/{{pid}}/exe",
             f"/proc/{{pid}}/root"):
    t(path, os.stat, path); t("l" + path, os.lstat, path)
t("dirfd", os.stat, f"{{pid}}/stat", dir_fd=proc); t("dirfd-up", os.stat, f"../{{pid}}/stat", dir_fd=mine)
t("readlink", os.readlink, f"/proc/{{pid}}/exe"); t("open", os.open, f"/proc/{{pid}}/cmdline", 0)
os.chdir("/proc"); t("cwd", os.stat, f"{{pid}}/stat"); t("enter", os.chdir, f"/proc/{{pid}}")
reader, writer = os.pipe(); child = os.fork()
if child == 0:
    os.close(writer); os.read(reader, 1); os._exit(0)
numbers = lambda where: {{n for n in os.listdir(where) if n.isdigit()}}
both = {{str(me), str(child)}}
t("listed", lambda: numbers("/proc") == both); t("listed-fd", lambda: numbers(os.open("/proc", 0)) == both)
t("own", lambda: f"Pid:\\t{{child}}" in open(f"/proc/{{child}}/status").read())
t("self", lambda: os.readlink("/proc/self") == str(me) and os.readlink("/proc/thread-self") == f"{{me}}/task/{{me}}")
exe = os.readlink("/proc/self/exe")
t("exe", lambda: exe == os.readlink(f"/proc/{{me}}/exe") and "python" in exe)
inodes = {{os.fstat(reader).st_ino, os.stat(f"/proc/self/fd/{{reader}}").st_ino, os.stat(f"/dev/fd/{{reader}}").st_ino}}
t("fds", lambda: len(inodes) == 1)
for _ in range(300):
    try: os.stat(f"../{{pid}}/stat", dir_fd=mine); print("repeated = found"); break
    except FileNotFoundError: continue
t("others", lambda: "meminfo" in os.listdir("/proc"))
os.write(writer, b"x")
"""
    answers = told(served(code, layer))
    seen = {"listed", "listed-fd", "own", "self", "exe", "fds", "others"}
    assert {answers.pop(label) for label in seen} == {"True"}
    assert len(answers) >= 24
    assert set(answers.values()) == {"ENOENT"}


def test_files_of_each_process_are_generated_by_every_alias() -> None:
    layer = VirtualLayer()
    layer.add_in_process(b"mounts", lambda _: b"no mounts")
    layer.add_in_process(b"net/dev", lambda _: b"no devices")
    code = """
me = os.getpid(); here = os.open("/proc/self", os.O_PATH)
for path in ("/proc/self/mounts", f"/proc/{me}/mounts", "/proc/mounts", "/proc/thread-self/mounts", "/etc/mtab",
             f"/proc/{me}/task/{me}/mounts", "/proc/self/task/../mounts", "/proc/self/root/proc/self/mounts"):
    t(path, lambda: read(path) == b"no mounts")
t("dirfd", lambda: read("mounts", dir_fd=here) == b"no mounts")
for path in ("/proc/net/dev", "/proc/self/net/dev", f"/proc/{me}/task/{me}/net/dev"):
    t(path, lambda: read(path) == b"no devices")
os.chdir("/proc/self"); t("cwd", lambda: read("mounts") == b"no mounts")
t("control", lambda: b"python" in read("cmdline"))
"""
    answers = told(served(code, layer))
    if not os.path.islink("/etc/mtab"):
        answers.pop("/etc/mtab")
    assert len(answers) >= 12
    assert not {label for label, answer in answers.items() if answer != "True"}


ORDER = """
import ctypes
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
os.chdir(sys.argv[2])
def raw(fd, size):
    memory = ctypes.create_string_buffer(size)
    count, error = call("getdents64", fd, memory, size)
    return memory.raw[:count] if not error else error
def names(content):
    found, at = [], 0
    while at < len(content):
        length = int.from_bytes(content[at + 16:at + 18], "little")
        found.append((content[at + 19:at + length].split(b"\\0")[0], int.from_bytes(content[at + 8:at + 16], "little")))
        at += length
    return found
def whole(fd, size):
    found = []
    while content := raw(fd, size):
        assert not isinstance(content, str), content
        found += names(content)
    return [n for n, _ in found]
fd = os.open(".", 0)
everything = whole(fd, 32768)
t("sorted", lambda: everything == sorted(everything)); t("count", lambda: len(everything))
t("bytes", lambda: sorted(os.listdir(b".") + [b".", b".."]) == everything)
for size in (280, 1000, 4096, 1 << 20):
    os.lseek(fd, 0, 0); t(size, lambda: whole(fd, size) == everything)
os.lseek(fd, 0, 0); first = names(raw(fd, 300)); back = first[2][1]
whole(fd, 4096); os.lseek(fd, back, 0)
t("seek", lambda: [n for n, _ in first[:3]] + whole(fd, 999) == everything)
os.lseek(fd, 0, 0); t("tiny", raw, fd, 10); t("after-tiny", lambda: whole(fd, 500) == everything)
os.lseek(fd, 0, 0); half = names(raw(fd, 4096))
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, str(len(whole(fd, 4096))).encode()); os._exit(0)
os.wait(); t("shared", lambda: int(os.read(reader, 20)) + len(half) == len(everything)); t("end", raw, fd, 4096)
if "getdents" in numbers:
    os.lseek(fd, 0, 0); memory = ctypes.create_string_buffer(1 << 16); count, _ = call("getdents", fd, memory, 1 << 16)
    found, at = [], 0
    while at < count:
        length = int.from_bytes(memory.raw[at + 16:at + 18], "little")
        found.append(memory.raw[at + 18:at + length].split(b"\\0")[0]); at += length
    t("old", lambda: found == everything[:len(found)] and len(found) > 100)
t("file", raw, os.open("/etc/passwd", 0), 100); t("bad", raw, 999, 100); t("path", raw, os.open(".", os.O_PATH), 100)
"""


def test_ordered_listings_are_sorted_whole_and_seekable_with_any_buffer(folder: Path) -> None:
    names = [b"n%d" % n for n in range(700)] + [b"\xff\xfe", b"\xc3\xa4", b"x" * 255, b"new\nline", b"A"]
    for name in names:
        os.close(os.open(os.fsencode(folder) + b"/" + name, os.O_CREAT))
    outcome = served(ORDER, None, str(folder), ordered=True, folder=str(folder))
    answers = told(outcome)
    assert answers.pop("count") == str(len(names) + 2)
    assert answers.pop("tiny") == "EINVAL"
    assert answers.pop("end") == "b''"
    assert (answers.pop("file"), answers.pop("bad"), answers.pop("path")) == ("ENOTDIR", "EBADF", "EBADF")
    assert len(answers) >= 8
    assert not {label for label, answer in answers.items() if answer != "True"}


ENTRIES = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=255).filter(lambda name: 0 not in name),
        st.integers(0, 14),
        st.integers(0, 2**64 - 1),
    )
)


@given(ENTRIES, st.integers(280, 5000))
def test_rendered_entries_are_read_back_whatever_the_buffer(entries: list[tuple[bytes, int, int]], size: int) -> None:
    position, found = 0, []
    while True:
        content, position = render(entries, position, size, old=False)
        if not content:
            break
        assert len(content) <= size
        found += parse(content)
    assert found == entries
