"""A shortcut serves the calls that touch nothing special as the kernel would, and returns all others."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandlock_sys import landlock, notif, pidfd, prctl, seccomp
from sandlock_sys.constants.seccomp import Action, FilterFlag
from sandlock_sys.deputy import Deputy
from sandlock_sys.shortcut import MAX_NAMES, BranchPlace, Kind, Row, Shortcut
from sandlock_sys.walk import NO_MARKS, Marks

pytestmark = [
    pytest.mark.usefixtures("leaks"),
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("pidfd", level=2),
]

X86 = os.uname().machine == "x86_64"
STAT, OPEN, READLINK, PPOLL = (262, 257, 267, 271) if X86 else (79, 56, 78, 73)
ROWS = {
    STAT: Row(Kind.STAT, 1, 2, at=0, flags=3),
    OPEN: Row(Kind.OPEN, 1, at=0, flags=2),
    READLINK: Row(Kind.READLINK, 1, 2, at=0),
}
CALLS = {"newfstatat": STAT, "openat": OPEN, "readlinkat": READLINK}
AUDIT_ARCH = 0xC000003E if X86 else {"aarch64": 0xC00000B7, "riscv64": 0xC00000F3}.get(os.uname().machine, 0)
RETURNED = errno.EXFULL
READ_FILE, READ_DIR = 1 << 2, 1 << 3


class Served:
    """What a shortcut did: how many requests it returned, and the child's outcome."""

    def __init__(self, listener: int) -> None:
        self.shortcut = Shortcut(listener, AUDIT_ARCH, ROWS, wait_ns=1_000_000, blocked_ns=20_000_000)
        self.shortcut.allow(1_000_000)
        self.returned = 0
        self.told = ""


@pytest.fixture
def serve(filter_for: Any, child: Any, numbers: dict[str, int]) -> Callable[..., Served]:
    """`serve(call, body, judge)`: the body's result, its calls served by a shortcut; what is returned fails."""
    numbers.update(CALLS)

    def run(call: str, body: Callable[[], object], judge: Callable[[Shortcut], None]) -> Served:
        reader, writer = os.pipe()

        def in_child() -> None:
            prctl.set_no_new_privs()
            listener = seccomp.set_mode_filter(filter_for(call, Action.USER_NOTIF), FilterFlag.NEW_LISTENER)
            os.write(writer, b"%d\n" % listener)
            try:
                told = repr(body())
            except OSError as error:
                told = errno.errorcode[error.errno or 0]
            os.write(writer, told.encode())

        with child(in_child) as pid, os.fdopen(reader, "rb", buffering=0) as stream:
            os.close(writer)
            number = b""
            while not number.endswith(b"\n"):
                number += stream.read(1)
            process = pidfd.open_pidfd(pid)
            listener = pidfd.getfd(process, int(number))
            os.close(process)
            try:
                served = Served(listener)
                judge(served.shortcut)
                exchange = notif.Exchange(listener)
                exchange.use(served.shortcut)
                fields = exchange.take(100_000_000)
                while not exchange.hung_up:
                    if fields is None:
                        fields = exchange.take(100_000_000)
                    else:
                        served.returned += 1
                        fields = exchange.answer_and_take(fields[0], 0, RETURNED, 0, 100_000_000)
                served.told = stream.read().decode()
            finally:
                os.close(listener)
        return served

    return run


@pytest.fixture
def root() -> Iterator[int]:
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


EVERYWHERE = Marks((os.stat(path).st_dev, 0) for path in ("/", "/proc", "/dev", "/dev/shm", tempfile.gettempdir()))


def judging(root: int, **others: Any) -> Callable[[Shortcut], None]:
    """Everything is served, but for what `others` say."""

    def judge(shortcut: Shortcut) -> None:
        shortcut.fresh()
        said: dict[str, Any] = {"root": root, "relative": True, "marks": NO_MARKS, "names": (), "prompt": EVERYWHERE}
        shortcut.judge_by(**said | others)

    return judge


def look(*paths: Path | str, **options: Any) -> Callable[[], list[object]]:
    """A body that stats each path: its inode, or the errno."""

    def body() -> list[object]:
        found: list[object] = []
        for path in paths:
            try:
                found.append(os.stat(path, **options).st_ino)
            except OSError as error:
                found.append(errno.errorcode[error.errno or 0])
        return found

    return body


def test_a_plain_path_is_served_and_told_as_bare(serve: Any, root: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    paths: list[Path | str] = [tmp_path / "file", tmp_path, tmp_path / "absent", f"{tmp_path}//./file"]
    bare = look(*paths)()  # first: the kernel has to know that a name is absent
    served = serve("newfstatat", look(*paths), judging(root))
    assert served.told == repr(bare)
    assert (served.returned, served.shortcut.served) == (0, 4)
    whole = serve("newfstatat", lambda: tuple(os.stat(tmp_path / "file")), judging(root))
    assert whole.told == repr(tuple((tmp_path / "file").stat()))


def test_a_path_with_a_special_name_is_returned(serve: Any, root: int, tmp_path: Path) -> None:
    for name in ("secret", "secre", "secrets", "a", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    names = [b"secret", b"m", b"sec", b"zz"]
    paths = [tmp_path / name / "file" for name in ("secret", "secre", "secrets", "a", "z")]
    served = serve(
        "newfstatat", look(*paths, tmp_path / "secret", tmp_path / "a/../secret"), judging(root, names=names)
    )
    inodes = [path.stat().st_ino for path in paths]
    assert served.told == repr(["EXFULL", *inodes[1:], "EXFULL", "EXFULL"])
    assert (served.returned, served.shortcut.served) == (3, 4)


def test_a_marked_object_is_returned_whatever_its_name(serve: Any, root: int, tmp_path: Path) -> None:
    marked, other = tmp_path / "marked", tmp_path / "other"
    marked.touch()
    other.touch()
    (tmp_path / "alias").hardlink_to(marked)
    marks = Marks([identity(marked), (1, 1), (1 << 40, 7)])
    served = serve("newfstatat", look(marked, tmp_path / "alias", other), judging(root, marks=marks))
    assert served.told == repr(["EXFULL", "EXFULL", other.stat().st_ino])


def test_on_a_file_system_that_is_not_known_to_be_prompt_nothing_is_asked(
    serve: Any, root: int, tmp_path: Path
) -> None:
    """Its server may never answer, and this thread would wait for it."""
    (tmp_path / "file").touch()
    found = (tmp_path / "file").stat()
    body = look(tmp_path / "file", tmp_path / "absent")
    body()  # now the kernel knows that a name is absent, and says so without any file system
    assert serve("newfstatat", body, judging(root)).told == repr([found.st_ino, "ENOENT"])
    beside = Marks([(found.st_dev + 1, 0), (found.st_dev, 1)])
    for prompt in (NO_MARKS, beside):
        served = serve("newfstatat", body, judging(root, prompt=prompt))
        assert served.told == repr(["EXFULL", "ENOENT"])
        assert (served.returned, served.shortcut.served) == (1, 1)


def test_a_start_far_down_is_returned_where_the_way_up_has_to_be_gone(serve: Any, root: int, tmp_path: Path) -> None:
    """Each call would go up all the way, and every other sandbox of the loop would wait for it."""
    far = tmp_path.joinpath(*["d"] * 80)
    far.mkdir(parents=True)
    near = tmp_path / "d"
    for folder in (near, far):
        (folder / "file").touch()
    marks = Marks([(1, 1)])
    for folder, others, told in ((near, marks, None), (far, marks, "'EXFULL'"), (far, NO_MARKS, None)):
        fd = os.open(folder, os.O_PATH)
        try:
            served = serve("newfstatat", look("file", dir_fd=fd), judging(root, denied=others))
        finally:
            os.close(fd)
        assert served.told == f"[{told or (folder / 'file').stat().st_ino}]"


def test_links_are_returned_and_one_that_is_meant_itself_is_served(serve: Any, root: int, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").touch()
    (tmp_path / "link").symlink_to("dir")
    link = tmp_path / "link"
    followed = serve("newfstatat", look(link, link / "file"), judging(root))
    assert (followed.told, followed.shortcut.served) == (repr(["EXFULL", "EXFULL"]), 0)
    itself = serve("newfstatat", look(link, follow_symlinks=False), judging(root))
    assert itself.told == repr([link.lstat().st_ino])
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        text = serve("readlinkat", lambda: os.readlink("link", dir_fd=fd), judging(root))
        no_link = serve("readlinkat", lambda: os.readlink("dir", dir_fd=fd), judging(root))
        of_proc = serve("readlinkat", lambda: os.readlink("/proc/self", dir_fd=fd), judging(root))
    finally:
        os.close(fd)
    assert (text.told, no_link.told, of_proc.told) == ("'dir'", "EINVAL", "EXFULL")


def test_bad_memory_and_what_is_not_a_path_are_returned(serve: Any, root: int, tmp_path: Path) -> None:
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = [ctypes.c_long] * 5
    text = ctypes.create_string_buffer(os.fsencode(tmp_path))
    room = ctypes.create_string_buffer(256)
    path, buffer = ctypes.addressof(text), ctypes.addressof(room)
    empty = ctypes.addressof(ctypes.create_string_buffer(b""))
    cases = [(path, buffer, 0), (8, buffer, 0), (path, 8, 0), (empty, buffer, 0x1000), (path, buffer, 1 << 20)]

    def body() -> list[int]:
        return [ctypes.get_errno() if call(STAT, -100, *case) else 0 for case in cases]

    served = serve("newfstatat", body, judging(root))
    assert served.told == repr([0, RETURNED, RETURNED, 0, RETURNED])
    assert (served.returned, served.shortcut.served) == (3, 2)


def test_relative_paths_start_outside_of_what_is_denied_and_within_the_fence(
    serve: Any, root: int, tmp_path: Path
) -> None:
    for name in ("inside", "inside/deep", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    inside, deep, outside = ((tmp_path / name) for name in ("inside", "inside/deep", "outside"))

    def body() -> list[object]:
        found = []
        for folder in (inside, deep, outside):
            os.chdir(folder)
            found += look("file")()
            fd = os.open(folder, os.O_RDONLY)
            found += look("file", dir_fd=fd)()
            os.close(fd)
        return [*found, *look("x", dir_fd=1000)()]

    inodes = [(folder / "file").stat().st_ino for folder in (inside, deep, outside) for _ in range(2)]
    no = "EXFULL"
    mark = Marks([identity(inside)])
    cases: dict[str, tuple[dict[str, Any], list[object]]] = {
        "nothing": ({}, [*inodes, no]),
        "denied": ({"denied": mark}, [no, no, no, no, *inodes[4:], no]),
        "fence": ({"fence": mark}, [*inodes[:4], no, no, no]),
        "closed": ({"closed": mark}, [no, no, *inodes[2:], no]),
        "absolute only": ({"relative": False}, [no] * 7),
    }
    for name, (said, expected) in cases.items():
        assert serve("newfstatat", body, judging(root, **said)).told == repr(expected), name


def test_what_was_forgotten_is_not_served_until_it_is_judged_by_again(serve: Any, root: int, tmp_path: Path) -> None:
    def forgotten(shortcut: Shortcut) -> None:
        judging(root)(shortcut)
        shortcut.forget()

    assert serve("newfstatat", look(tmp_path), lambda _: None).told == repr(["EXFULL"])
    assert serve("newfstatat", look(tmp_path), forgotten).told == repr(["EXFULL"])
    many = [b"%d" % number for number in range(MAX_NAMES + 1)]
    assert serve("newfstatat", look(tmp_path), judging(root, names=many)).told == repr(["EXFULL"])
    assert serve("newfstatat", look(tmp_path), judging(-1)).told == repr(["EXFULL"])
    served = serve("newfstatat", look(tmp_path), judging(root, names=many[1:]))
    assert served.told == repr([tmp_path.stat().st_ino])


def test_another_thread_can_stop_it_while_it_serves(serve: Any, root: int, tmp_path: Path) -> None:
    def body() -> int:
        for count in range(1_000_000):
            try:
                os.stat(tmp_path)
            except OSError:
                return min(count, 1)
        return 0

    def judge(shortcut: Shortcut) -> None:
        judging(root)(shortcut)

        def stop() -> None:
            while not shortcut.served:
                time.sleep(0.001)
            shortcut.forget()

        thread = threading.Thread(target=stop)
        thread.start()
        stopping.append(thread)

    stopping: list[threading.Thread] = []
    served = serve("newfstatat", body, judge)
    stopping[0].join()
    assert (served.told, served.returned) == ("1", 1)


def test_it_returns_to_its_caller_when_its_share_is_used_up(serve: Any, root: int, tmp_path: Path) -> None:
    def judge(shortcut: Shortcut) -> None:
        judging(root)(shortcut)
        shortcut.allow(3)

    served = serve("newfstatat", look(*[tmp_path] * 10), judge)
    assert served.told == repr([tmp_path.stat().st_ino] * 10)
    assert served.shortcut.served == 10  # each one more by one `take`


@contextmanager
def opening(root: int, *, listens: bool = True) -> Iterator[tuple[Deputy, Callable[[Shortcut], None]]]:
    with Deputy() as deputy, ExitStack() as last:

        def judge(shortcut: Shortcut) -> None:
            judging(root)(shortcut)
            deputy.listener = shortcut.memory.listener
            shortcut.open_by(deputy)
            last.callback(shortcut.open_by, None)

        yield deputy, judge


def text_of(path: Path, flags: int = os.O_RDONLY) -> str:
    try:
        fd = os.open(path, flags)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        return os.read(fd, 100).decode() if stat.S_ISREG(os.fstat(fd).st_mode) else "no file"
    finally:
        os.close(fd)


def test_a_file_is_opened_by_the_deputy_and_given_to_the_child(serve: Any, root: int, tmp_path: Path) -> None:
    file, fifo, absent = (tmp_path / name for name in ("file", "fifo", "absent"))
    file.write_text("content")
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to("file")
    cases = [
        (file, os.O_RDONLY, "content"),
        (file, os.O_RDONLY | os.O_NOFOLLOW, "content"),
        (tmp_path, os.O_RDONLY | os.O_DIRECTORY, "no file"),
        (file, os.O_RDONLY | os.O_DIRECTORY, "ENOTDIR"),
        (tmp_path, os.O_WRONLY, "EISDIR"),
        (absent, os.O_RDONLY, "ENOENT"),
        (fifo, os.O_RDONLY | os.O_NONBLOCK, "EXFULL"),
        (tmp_path / "link", os.O_RDONLY, "EXFULL"),
        (file, os.O_RDONLY | os.O_CREAT, "EXFULL"),
        (file, os.O_PATH, "EXFULL"),
        (Path("/dev/null"), os.O_RDONLY, "EXFULL"),
        (file, os.O_RDWR | os.O_TRUNC, ""),
    ]
    assert not absent.exists()
    with opening(root) as (_, judge):
        served = serve("openat", lambda: [text_of(path, flags) for path, flags, _ in cases], judge)
    assert served.told == repr([expected for _, _, expected in cases])
    nobody = serve("openat", lambda: text_of(file), judging(root))
    assert nobody.told == repr("EXFULL"), "there is no deputy"


def test_close_on_exec_is_the_child_s_wish(serve: Any, root: int, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "file").touch()

    def body() -> list[int]:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).syscall
        path = os.fsencode(tmp_path / "file")
        return [fcntl.fcntl(call(OPEN, -100, path, flags, 0), fcntl.F_GETFD) for flags in (0, os.O_CLOEXEC)]

    with opening(root) as (_, judge):
        assert serve("openat", body, judge).told == repr([0, 1])


def test_many_opens_in_a_row_use_the_slots_again(serve: Any, root: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with opening(root) as (deputy, judge):
        served = serve("openat", lambda: [text_of(tmp_path / "file") for _ in range(300)].count("x"), judge)
        assert not deputy.collect()
    # What comes while a deputy is held up, by a busy machine say, is returned.
    assert int(served.told) == served.shortcut.served > 100
    assert served.returned == 300 - served.shortcut.served


@pytest.mark.needs("landlock", level=1)
def test_what_is_opened_is_opened_in_the_deputy_s_domain(serve: Any, root: int, tmp_path: Path) -> None:
    for name in ("granted", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with opening(root) as (deputy, judge):
        ruleset = landlock.create_ruleset(READ_FILE | READ_DIR, 0, 0)
        landlock.add_paths(ruleset, [(os.fsencode(tmp_path / "granted"), READ_FILE | READ_DIR)])
        deputy.restrict_self(ruleset)
        os.close(ruleset)
        served = serve("openat", lambda: [text_of(tmp_path / name / "file") for name in ("granted", "kept")], judge)
    assert served.told == repr(["granted", "EACCES"])
    assert served.shortcut.served == 2


def test_a_blocked_deputy_gets_no_further_file(serve: Any, root: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with opening(root) as (deputy, judge):
        assert deputy.busy_s == 0
        reader, writer = os.pipe()
        fds = bytearray(reader.to_bytes(4, "little") + (1).to_bytes(2, "little") + bytes(2))  # struct pollfd, POLLIN
        ticket = deputy.submit(PPOLL, fds, 1, 0, 0)
        while deputy.busy_s < 0.05:
            time.sleep(0.01)
        held_up = serve("openat", lambda: text_of(tmp_path / "file"), judge)
        os.write(writer, b"x")
        deputy.wait(ticket, 10)
        while deputy.busy_s:
            time.sleep(0.001)
        free = serve("openat", lambda: text_of(tmp_path / "file"), judge)
        os.close(reader)
        os.close(writer)
    assert (held_up.told, held_up.returned) == (repr("EXFULL"), 1)
    assert (free.told, free.returned) == (repr("x"), 0)


def test_it_stands_beside_answers_of_its_caller(serve: Any, root: int, tmp_path: Path) -> None:
    paths = [tmp_path, tmp_path / "secret"] * 20
    served = serve("newfstatat", look(*paths), judging(root, names=[b"secret"]))
    assert served.told == repr([tmp_path.stat().st_ino, "EXFULL"] * 20)
    assert (served.returned, served.shortcut.served) == (20, 20)


class Layers:
    """A copy-on-write folder: `shown`, whose writes are in `upper`."""

    def __init__(self, folder: Path) -> None:
        self.shown, self.upper = folder / "shown", folder / "upper"
        for path in ("both", "lower", "hidden", "deep/er"):
            (self.shown / path).mkdir(parents=True)
            (self.shown / path / "file").touch()
        for path in ("both", "upper"):
            (self.upper / path).mkdir(parents=True)
        for path in ("both/made", "both/changed", "upper/file"):
            (self.upper / path).touch()
        (self.shown / "both/changed").touch()
        (self.shown / "link").symlink_to("lower")
        self.fds = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (self.upper, self.shown)]

    def judging(self, root: int, *more: bytes, **others: Any) -> Callable[[Shortcut], None]:
        """What is served of the folder; `more` are names that are not, `others` of its place."""
        paths = os.fsencode(self.upper), os.fsencode(self.shown)
        said: dict[str, Any] = {"root": identity(self.shown), "names": [b"..", *more]}
        place = BranchPlace(self.fds[0], self.fds[1], paths, **said | others)
        names = [b"shown", b"..", *more]
        return judging(root, marks=Marks([identity(self.shown)]), names=names, branch=place)


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    made = Layers(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)


INSIDE = [
    "lower/file",
    "both/file",
    "both/made",
    "both/changed",
    "upper/file",
    "deep/er/file",
    "absent",
    "both/absent",
    "",
]


def told(layers: Layers) -> list[object]:
    """What a program is to see of INSIDE."""
    merged = [layers.upper / path if (layers.upper / path).exists() else layers.shown / path for path in INSIDE]
    return look(*merged)()


def test_names_of_the_upper_layer_hide_those_of_the_lower_one(serve: Any, root: int, layers: Layers) -> None:
    paths = [layers.shown / path for path in INSIDE]
    served = serve("newfstatat", look(*paths), layers.judging(root))
    assert served.told == repr(told(layers))
    assert served.returned == 0


@pytest.mark.parametrize("start", ["shown", "shown/both", "upper/both", "shown/lower"])
def test_paths_in_a_branch_start_in_either_layer(serve: Any, root: int, layers: Layers, start: str) -> None:
    names = ["made", "changed", "file", "."]
    folder, _, inner = start.partition("/")
    prefix = f"{inner}/" if inner else ""
    merged = [layers.upper / (prefix + name) for name in names]
    expected = look(*[path if path.exists() else layers.shown / path.relative_to(layers.upper) for path in merged])()
    fd = os.open(layers.shown.parent / start, os.O_PATH)
    try:
        served = serve("newfstatat", look(*names, dir_fd=fd), layers.judging(root))
        moved = serve("newfstatat", look(*names, dir_fd=fd), layers.judging(root, starts=False))
    finally:
        os.close(fd)
    assert (served.told, served.returned) == (repr(expected), 0), folder
    assert moved.returned == len(names)


def test_what_needs_thought_in_a_branch_is_returned(serve: Any, root: int, layers: Layers) -> None:
    (layers.upper / "both/whiteout").touch()
    (layers.upper / "both/whiteout").chmod(0o400)  # it may be one: its attribute says
    (layers.upper / "lower").touch()  # hides the directory
    os.mkfifo(layers.upper / "pipe")
    names = [
        "both/whiteout",
        "lower/file",
        "pipe",
        "link/file",
        "link",
        "hidden/file",
        "both/../both/file",
        "both/file/",
    ]
    judge = layers.judging(root, b"hidden")
    served = serve("newfstatat", look(*[f"{layers.shown}/{name}" for name in names]), judge)
    assert served.told == repr(["EXFULL"] * len(names))
    assert serve("newfstatat", look(layers.shown / "link", follow_symlinks=False), judge).returned == 0
    writing = serve("openat", lambda: os.open(layers.shown / "both/file", os.O_RDWR), judge)
    assert writing.told == "EXFULL"


def test_nothing_is_served_from_a_branch_that_changes(serve: Any, root: int, layers: Layers) -> None:
    paths = [layers.shown / path for path in INSIDE]
    judge = layers.judging(root)

    def changing(shortcut: Shortcut) -> None:
        judge(shortcut)
        shortcut.begin()

    def changed(shortcut: Shortcut) -> None:
        changing(shortcut)
        shortcut.end()

    assert serve("newfstatat", look(*paths), changing).returned == len(paths)
    assert serve("newfstatat", look(*paths), changed).returned == 0


def test_an_object_of_another_file_system_in_a_branch_is_returned(serve: Any, root: int, layers: Layers) -> None:
    os.close(layers.fds[1])
    layers.fds[1] = os.open("/", os.O_PATH | os.O_CLOEXEC)
    served = serve("newfstatat", look(layers.shown / "proc/self/stat", layers.shown / "proc"), layers.judging(root))
    assert served.returned == 2


def test_inodes_that_come_and_go_do_not_fill_the_memory() -> None:
    shortcut = Shortcut(-1, 0, {}, wait_ns=0, blocked_ns=0)
    lasting = [(inode, (7, 1000 + inode)) for inode in range(1, 40)]
    for inode, shown in lasting:
        shortcut.show(inode, shown)
    for inode in range(10_000, 40_000):
        shortcut.show(inode, (7, inode))
        shortcut.show(inode, None)
        if not inode % 500:
            shortcut.allow(1)
    assert sum(len(table) for table in shortcut._tables) < 20_000
    words = list(shortcut.memory.branch.numbers[0 : len(shortcut._tables[-1])])
    told = {words[at]: (words[at + 1], words[at + 2]) for at in range(1, len(words), 3) if words[at + 2]}
    assert told == dict(lasting)


def test_what_it_was_not_told_to_the_end_is_not_used(serve: Any, root: int, layers: Layers, tmp_path: Path) -> None:
    """The tables are memory of the interpreter's, which is another's again where nobody holds it."""

    def judge(shortcut: Shortcut) -> None:
        layers.judging(root)(shortcut)
        place = BranchPlace(layers.fds[0], 10**6, (b"upper", b"lower"), identity(layers.shown), names=[])
        with pytest.raises(OSError, match="Bad file descriptor"):
            judging(root, branch=place, marks=Marks((device, 1) for device in range(1000)))(shortcut)

    paths = [tmp_path, layers.shown / "both/file"]
    assert serve("newfstatat", look(*paths), judge).returned == len(paths)
    assert serve("newfstatat", look(*paths), layers.judging(root)).returned == 0


def test_no_path_leads_out_of_a_layer_of_a_branch(serve: Any, root: int, layers: Layers) -> None:
    """Not even where nobody said that `..` is to be asked about."""
    for folder in (layers.upper.parent, layers.shown.parent):
        (folder / "beside").touch()
    paths = [layers.shown / "../beside", layers.shown / "both/../../beside", layers.shown / "both/.."]
    served = serve("newfstatat", look(*map(str, paths)), layers.judging(root, names=[]))
    assert (served.returned, served.told) == (2, repr(["EXFULL", "EXFULL", (layers.upper / ".").stat().st_ino]))


def test_with_too_many_names_nothing_of_a_branch_is_served(serve: Any, root: int, layers: Layers) -> None:
    many = [b"%d" % number for number in range(MAX_NAMES)]
    served = serve("newfstatat", look(layers.shown / "both/file"), layers.judging(root, names=[b"..", *many]))
    assert served.returned == 1


def test_a_root_that_is_a_branch(serve: Any, root: int, layers: Layers) -> None:
    served = serve("newfstatat", look("/both/made", "/lower/file", "/"), layers.judging(root, whole=True))
    inodes = [(folder / path).stat().st_ino for folder, path in
              ((layers.upper, "both/made"), (layers.shown, "lower/file"), (layers.upper, "."))]  # fmt: skip
    assert (served.told, served.returned) == (repr(inodes), 0)


def test_the_numbers_of_a_branch_s_inodes_are_kept_however_many_there_are(root: int) -> None:
    shortcut = Shortcut(-1, 0, {}, wait_ns=0, blocked_ns=0)
    count = 5000
    for inode in range(1, count):
        shortcut.show(inode, (7, inode + 10**6))
    for inode in range(1, count, 3):
        shortcut.show(inode, None)
    shortcut.show(2, (9, 5))

    def shown(inode: int) -> tuple[int, int] | None:
        table = shortcut.memory.branch.numbers
        mask = table[0]
        slots = [tuple(table[1 + 3 * at + word] for word in range(3)) for at in range(mask + 1)]
        found = [slot[1:] for slot in slots if slot[0] == inode and slot[2]]
        assert len(found) < 2
        return found[0] if found else None

    assert [shown(inode) for inode in (1, 2, 3, 4, count - 1, count)] == [
        None, (9, 5), (7, 10**6 + 3), None, (7, count - 1 + 10**6) if (count - 2) % 3 else None, None
    ]  # fmt: skip
