"""Every step of a launch that fails comes back with its name and errno, and nothing of the sandbox is left."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import alive_with, deny, launched, new_mark, new_request, output_of

from sandlock_sys import guard as guard_module
from sandlock_sys import prctl, seccomp
from sandlock_sys.spawn import NO_ASLR, NO_THP, SpawnError, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock_sys.spawn import SpawnRequest

pytestmark = pytest.mark.usefixtures("leaks")

NOWHERE = 900  # an fd that nobody has open
Change = Callable[["SpawnRequest", Path], None]


def stdio(request: SpawnRequest, folder: Path) -> None:
    request.stdio = (0, NOWHERE, 2)


def keep(request: SpawnRequest, folder: Path) -> None:
    request.keep = [NOWHERE]


def missing_cwd(request: SpawnRequest, folder: Path) -> None:
    request.cwd = bytes(folder / "missing")


def file_as_cwd(request: SpawnRequest, folder: Path) -> None:
    (folder / "file").touch()
    request.cwd = bytes(folder / "file")


def soft_above_hard(request: SpawnRequest, folder: Path) -> None:
    request.limits = [(resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_NOFILE, 20, 10)]


def missing_cpu(request: SpawnRequest, folder: Path) -> None:
    request.affinity = [4000]


def no_ruleset(request: SpawnRequest, folder: Path) -> None:
    request.ruleset = NOWHERE


def no_guard_ruleset(request: SpawnRequest, folder: Path) -> None:
    request.guard_ruleset = NOWHERE


def filter_without_end(request: SpawnRequest, folder: Path) -> None:
    request.filter = bytes(8)


def missing_program(request: SpawnRequest, folder: Path) -> None:
    request.candidates = [bytes(folder / "missing"), bytes(folder / "missing/too")]


def not_executable(request: SpawnRequest, folder: Path) -> None:
    (folder / "data").write_text("#!/bin/sh\n")
    # A refusal outlives a later "not there", as with execvp(3).
    request.candidates = [bytes(folder / "data"), bytes(folder / "missing")]


def folder_as_program(request: SpawnRequest, folder: Path) -> None:
    request.candidates = [bytes(folder)]


def program(folder: Path, content: bytes) -> bytes:
    path = folder / "program"
    path.write_bytes(content)
    path.chmod(0o755)
    return bytes(path)


def no_format(request: SpawnRequest, folder: Path) -> None:
    request.candidates = [program(folder, b"just text\n")]


def bad_interpreter(request: SpawnRequest, folder: Path) -> None:
    request.candidates = [program(folder, b"#!/nowhere/interpreter\n")]


def too_long(request: SpawnRequest, folder: Path) -> None:
    request.argv = [b"true", b"x" * (1 << 22)]


FAILURES: list[tuple[Change, str, str, int]] = [
    (stdio, "stdio", "dup3", errno.EBADF),
    (keep, "keep", "fcntl", errno.EBADF),
    (missing_cwd, "cwd", "chdir", errno.ENOENT),
    (file_as_cwd, "cwd", "chdir", errno.ENOTDIR),
    (soft_above_hard, "limit", "prlimit64", errno.EINVAL),
    (missing_cpu, "affinity", "sched_setaffinity", errno.EINVAL),
    (no_ruleset, "landlock", "landlock_restrict_self", errno.EBADF),
    (no_guard_ruleset, "guard-landlock", "landlock_restrict_self", errno.EBADF),
    (filter_without_end, "seccomp", "seccomp", errno.EINVAL),
    (missing_program, "exec", "execve", errno.ENOENT),
    (not_executable, "exec", "execve", errno.EACCES),
    (folder_as_program, "exec", "execve", errno.EACCES),
    (no_format, "exec", "execve", errno.ENOEXEC),
    (bad_interpreter, "exec", "execve", errno.ENOENT),
    (too_long, "exec", "execve", errno.E2BIG),
]


@pytest.mark.needs("landlock")
@pytest.mark.parametrize("flags", [0, NO_THP], ids=["shared-memory", "own-memory"])
@pytest.mark.parametrize(
    ("change", "step", "call", "number"), FAILURES, ids=[failure[0].__name__ for failure in FAILURES]
)
@pytest.mark.parametrize("scoped", [True, False], ids=["scoped", "walking"])
def test_a_failing_step_is_named_and_nothing_is_left(
    change: Change, step: str, call: str, number: int, scoped: bool, flags: int, tmp_path: Path
) -> None:
    mark = new_mark()
    with new_request(["sleep", "600", mark], scoped=scoped, flags=flags) as request:
        change(request, tmp_path)
        with pytest.raises(SpawnError) as caught:
            spawn(request)
        assert (caught.value.step, caught.value.call, caught.value.errno) == (step, call, number)
    assert alive_with(mark) == []


def test_the_message_names_what_failed(tmp_path: Path) -> None:
    with new_request(["true"]) as request:
        soft_above_hard(request, tmp_path)
        with pytest.raises(SpawnError, match=r"resource 7, 20\.\.10") as caught:
            spawn(request)
    assert caught.value.index == 1
    with new_request(["true"]) as request:
        not_executable(request, tmp_path)
        with pytest.raises(SpawnError, match=str(tmp_path / "data")) as caught:
            spawn(request)
    assert caught.value.index == 0


@pytest.mark.needs("ordinary_user")
def test_a_limit_above_the_hard_one_is_refused() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with new_request(["true"], limits=[(resource.RLIMIT_NOFILE, 10, hard + 1)]) as request:
        with pytest.raises(SpawnError) as caught:
            spawn(request)
        assert (caught.value.step, caught.value.errno) == ("limit", errno.EPERM)
        request.limits = [(resource.RLIMIT_NOFILE, 10, hard)]
        spawn(request).guard.close()


@pytest.mark.needs("ordinary_user")
def test_a_folder_that_the_user_may_not_enter_is_refused_as_cwd(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with new_request(["true"], cwd=bytes(tmp_path)) as request, pytest.raises(SpawnError) as caught:
            spawn(request)
    finally:
        tmp_path.chmod(0o700)
    assert (caught.value.step, caught.value.errno) == ("cwd", errno.EACCES)


def test_an_unlimited_limit_is_written_as_python_writes_it() -> None:
    core = output_of(["sh", "-c", "ulimit -H -c"], limits=[(resource.RLIMIT_CORE, 0, resource.RLIM_INFINITY)])
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    assert core == b"unlimited\n" or hard != resource.RLIM_INFINITY


@pytest.mark.parametrize("scoped", [False, True])
def test_without_its_guard_program_a_launch_starts_nothing(
    scoped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "GUARD_PATH", str(tmp_path / "missing"))
    monkeypatch.setattr(guard_module, "_program", None)
    touched = tmp_path / "touched"
    with new_request(["touch", str(touched)], scoped=scoped) as request, pytest.raises(SpawnError) as caught:
        spawn(request)
    assert (caught.value.step, caught.value.errno) == ("guard-exec", errno.ENOENT)
    assert not touched.exists()


@pytest.mark.needs("landlock", level=6)
def test_pr_13_a_guard_program_that_is_replaced_inside_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that sandlock is installed in may be below a write grant: a project with its environment in it."""
    program, owned = tmp_path / "guard", tmp_path / "owned"
    program.write_bytes(Path(guard_module.GUARD_PATH).read_bytes())
    program.chmod(0o755)
    monkeypatch.setattr(guard_module, "GUARD_PATH", str(program))
    monkeypatch.setattr(guard_module, "_program", None)
    evil = f"#!/bin/sh\ntouch {owned}\n"
    mark = new_mark()
    inside = f"printf '%s' '{evil}' >{program}; (setsid sleep 600 {mark} >/dev/null &); sleep 0.2; echo done"
    assert output_of(["sh", "-c", inside]) == b"done\n"
    assert program.read_text() == evil  # the control: it was there to be executed, after the guard's 20 ms
    assert not owned.exists()
    assert alive_with(mark) == []
    os.close(guard_module._program[0])  # type: ignore[index]  # the copy of this test's own program


@pytest.mark.needs("ordinary_user")
@pytest.mark.parametrize(("room", "step"), [(0, "start"), (1, "clone")])
def test_too_many_processes_are_told_as_such(room: int, step: str, in_child: Any) -> None:
    def body() -> tuple[str, int]:
        ours = sum(os.stat(f"/proc/{name}").st_uid == os.getuid() for name in os.listdir("/proc") if name.isdigit())
        resource.setrlimit(resource.RLIMIT_NPROC, (ours + room, ours + room))
        try:
            with launched(["true"]):
                return "", 0
        except SpawnError as error:
            return error.step, error.errno

    assert in_child(body) == (step, errno.EAGAIN)


CALLS = {
    "x86_64": {"clone": 56, "setsid": 112, "capset": 126, "personality": 135, "prctl": 157, "unshare": 272},
    "generic": {"clone": 220, "setsid": 157, "capset": 91, "personality": 92, "prctl": 167, "unshare": 97},
}
NUMBERS = CALLS["x86_64" if os.uname().machine == "x86_64" else "generic"] | {"close_range": 436}
PR_SET_THP_DISABLE = 41


@pytest.mark.needs("seccomp")
@pytest.mark.parametrize(
    ("call", "first", "fields", "step"),
    [
        ("clone", None, {}, "start"),
        ("setsid", None, {}, "guard"),
        ("unshare", None, {"writable": []}, "namespace"),
        ("personality", None, {"flags": NO_ASLR}, "personality"),
        ("prctl", PR_SET_THP_DISABLE, {"flags": NO_THP}, "thp"),
        ("capset", None, {}, "capabilities"),
        ("close_range", None, {}, "close"),
    ],
)
def test_a_step_that_an_outer_filter_refuses_is_named(
    call: str, first: int | None, fields: dict[str, Any], step: str, in_child: Any
) -> None:
    mark = new_mark()

    def body() -> tuple[str, int, bool]:
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(deny(NUMBERS[call], errno.EXDEV, first))
        found = ("", 0)
        try:
            with launched(["sleep", "600", mark], **fields):
                pass
        except SpawnError as error:
            found = error.step, error.errno
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return *found, True
        return *found, False

    assert in_child(body) == (step, errno.EXDEV, True)
    assert alive_with(mark) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("argv", []),
        ("candidates", []),
        ("argv", [b"a\0b"]),
        ("env", [b"A=\0"]),
        ("candidates", [b"/bin/true\0"]),
        ("cwd", b"/\0tmp"),
        ("stdio", (1, 0, 2)),  # dup3 would overwrite the second source before it is used
        ("filter", bytes(7)),
        ("filter", bytes(8 * 65537)),  # its count would be 1 in 16 bits
    ],
)
def test_a_request_that_cannot_be_meant_is_refused_before_anything_starts(name: str, value: Any) -> None:
    with new_request(["true"]) as request:
        setattr(request, name, value)
        with pytest.raises(ValueError, match=r"NUL|least one|above 2|instructions"):
            spawn(request)


def test_no_fd_for_the_launch_is_told(in_child: Any) -> None:
    def body() -> list[str]:
        with new_request(["true"]) as request:
            told = []
            for free in range(6):
                with few_fds(free):
                    try:
                        spawn(request).guard.close()
                    except OSError as error:
                        told.append(f"{type(error).__name__} {error.errno}")
                    else:
                        told.append("started")
        return told

    told = in_child(body)
    assert told[-1] == "started"
    assert set(told[: told.index("started")]) <= {f"SyscallError {errno.EMFILE}", f"SpawnError {errno.EMFILE}"}
    assert told[0] != "started"


@contextmanager
def few_fds(free: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = os.open("/dev/null", os.O_RDONLY)
    os.close(top)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
