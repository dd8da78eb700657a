"""Each fixture notices what it is there to notice."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandlock_testkit import Canary, Holdings, Identity, Outsider, Tree

pytest_plugins = ["pytester"]


def run(pytester: pytest.Pytester, body: str) -> tuple[dict[str, int], str]:
    pytester.makepyfile(f"import os, signal, subprocess, threading, time\n{body}\n")
    result = pytester.runpytest_subprocess("-p", "sandlock_testkit.plugin", "-p", "no:cacheprovider")
    return result.parseoutcomes(), result.stdout.str()


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ("os.open('/dev/null', os.O_RDONLY)", "-> /dev/null"),
        ("threading.Thread(target=time.sleep, args=(5,), daemon=True, name='left-over').start()", "left-over"),
        ("os.posix_spawn('/bin/sleep', ['sleep', '5'], {})", "(sleep)"),
        ("os.posix_spawn('/bin/true', ['true'], {}); time.sleep(0.2)", "(true, zombie)"),
    ],
)
def test_a_leak_is_named(pytester: pytest.Pytester, leak: str, words: str) -> None:
    counts, text = run(pytester, f"def test_it(leaks):\n    {leak}")
    assert counts == {"passed": 1, "errors": 1}
    assert "the test left behind" in text
    assert words in text


def test_what_was_there_before_or_ends_in_time_is_no_leak(pytester: pytest.Pytester) -> None:
    body = """
kept = os.open('/dev/null', os.O_RDONLY)
def test_it(leaks):
    os.close(os.open('/dev/null', os.O_RDONLY))
    threading.Thread(target=time.sleep, args=(0.3,)).start()
    subprocess.run(['true'], check=True)
"""
    assert run(pytester, body)[0] == {"passed": 1}


def test_a_closed_fd_whose_number_is_reused_is_a_leak() -> None:
    first = os.open("/dev/null", os.O_RDONLY)
    base = Holdings.now()
    os.close(first)
    second = os.open("/dev/zero", os.O_RDONLY)
    try:
        assert second == first
        assert Holdings.now().beyond(base) == [f"fd {second} -> /dev/zero"]
    finally:
        os.close(second)


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text("changed"),
        lambda path: path.unlink(),
        lambda path: path.chmod(0o644),
        touch,
        lambda path: os.link(path, path.with_name("second")),
        lambda path: os.setxattr(path, "user.mark", b"1"),
        lambda path: path.write_bytes(path.read_bytes()),
    ],
    ids=["content", "removal", "mode", "times", "link", "attribute", "rewrite"],
)
def test_a_canary_notices(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    canary = Canary.plant(tmp_path / "canary")
    canary.check()
    harm(canary.path)
    with pytest.raises(AssertionError, match="canary"):
        canary.check()


def test_a_canary_may_be_read(canary: Canary) -> None:
    assert canary.secret in canary.path.read_text()


def test_two_canaries_differ(tmp_path: Path) -> None:
    assert Canary.plant(tmp_path / "one").secret != Canary.plant(tmp_path / "two").secret


def test_a_harmed_tree_fails_its_test(pytester: pytest.Pytester) -> None:
    counts, text = run(pytester, "def test_it(tree):\n    tree.canary.path.unlink()")
    assert counts == {"passed": 1, "errors": 1}
    assert "was removed" in text


def test_a_tree_has_its_three_parts(tree: Tree) -> None:
    assert list(tree.work.iterdir()) == []
    assert (tree.read / "data.txt").read_text() == tree.readable
    assert subprocess.check_output([str(tree.read / "tool.sh")]) == b"tool ran\n"
    assert tree.canary.path.parent == tree.secret


def test_an_outsider_lives_and_its_death_is_seen(pytester: pytest.Pytester, outsider: Outsider) -> None:
    assert outsider.alive()
    deadline = time.monotonic() + 5
    while outsider.secret.encode() not in Path(f"/proc/{outsider.pid}/environ").read_bytes():
        assert time.monotonic() < deadline  # the kernel fills it in while the outsider executes
    for sign in (signal.SIGKILL, signal.SIGSTOP):
        body = f"def test_it(outsider):\n    os.kill(outsider.pid, {int(sign)}); time.sleep(0.2)"
        counts, text = run(pytester, body)
        assert counts == {"passed": 1, "errors": 1}
        assert "the outsider was killed or stopped" in text


@pytest.mark.needs("compiler")
def test_a_program_is_compiled_once_and_every_user_reaches_it(compile_c: Callable[..., Path]) -> None:
    source = "#include <stdio.h>\nint main(void) { puts(WORD); return 3; }\n"
    program = compile_c(source, '-DWORD="hello"')
    stamp = program.stat().st_mtime_ns
    done = subprocess.run([str(program)], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"hello\n")
    assert compile_c(source, '-DWORD="hello"') == program
    assert program.stat().st_mtime_ns == stamp
    assert compile_c(source, '-DWORD="other"') != program
    for folder in (program, program.parent):
        assert folder.stat().st_mode & stat.S_IXOTH


@pytest.mark.needs("compiler")
def test_a_program_that_does_not_build_shows_the_compilers_words(compile_c: Callable[..., Path]) -> None:
    with pytest.raises(AssertionError, match="error:"):
        compile_c("int main(void) { return missing; }")


def test_the_identity_is_that_of_this_process(as_user: Identity) -> None:
    assert (as_user.uid, as_user.gid) == (os.geteuid(), os.getegid())
    assert as_user.is_root == (os.geteuid() == 0)
