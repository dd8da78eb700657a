"""`Process`: pipes, `communicate`, waiting, signals."""

from __future__ import annotations

import signal
import time

import pytest
from runtime_lab import PYTHON, box, is_alive, line_of, number_here, wait_until

from sandlock_runtime import DEVNULL, PIPE, STDOUT

pytestmark = pytest.mark.usefixtures("leaks")

ECHO = ["sh", "-c", "echo first; read line; echo got $line; echo err >&2; exit 4"]


def test_a_dialogue_through_the_pipes() -> None:
    with box().popen(ECHO, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert line_of(process.stdout) == "first"
        assert process.stdin is not None and process.stdin is process.stdin
        process.stdin.write(b"word\n")
        process.stdin.flush()
        assert line_of(process.stdout) == "got word"
        assert process.wait(10).exit_code == 4
        assert line_of(process.stderr) == "err"


def test_streams_that_are_no_pipes_are_none() -> None:
    with box().popen(["true"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as process:
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
        assert process.communicate() == (b"", b"")


def test_communicate_feeds_and_drains() -> None:
    with box().popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        data = bytes(range(256)) * 4096
        assert process.communicate(data) == (data, b"")
        assert process.communicate() == (data, b"")
        assert process.wait().success


def test_communicate_goes_on_after_a_timeout_with_nothing_lost() -> None:
    code = "echo one; sleep 0.4; echo two; cat; echo three >&2"
    with box().popen(["sh", "-c", code], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        with pytest.raises(TimeoutError, match=r"after 0\.1 s"):
            process.communicate(b"input\n", timeout=0.1)
        assert process.poll() is None
        with pytest.raises(TimeoutError):
            process.communicate(timeout=0.05)
        assert process.communicate(timeout=20) == (b"one\ntwo\ninput\n", b"three\n")


def test_what_was_read_ahead_is_not_lost() -> None:
    with box().popen(["sh", "-c", "printf 'one\\ntwo\\n'; sleep 0.2; echo three"], stdout=PIPE) as process:
        assert line_of(process.stdout) == "one"  # the file object has read `two` too
        assert process.communicate(timeout=20) == (b"two\nthree\n", b"")


def test_a_half_written_input_is_finished_by_communicate() -> None:
    with box().popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"buffered ")
        assert process.communicate(b"and fed", timeout=20) == (b"buffered and fed", b"")


def test_a_pipe_that_the_caller_closed_gives_nothing() -> None:
    with box().popen(["sh", "-c", "echo err >&2"], stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.communicate(timeout=20) == (b"", b"err\n")


def test_input_without_a_pipe_is_refused() -> None:
    with box().popen(["true"], stdin=DEVNULL) as process:
        with pytest.raises(ValueError, match="stdin=PIPE"):
            process.communicate(b"x")
        assert process.wait(10).success


def test_stderr_into_stdout_keeps_the_order() -> None:
    with box().popen(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], stdout=PIPE, stderr=STDOUT) as process:
        assert process.stderr is None
        assert process.communicate() == (b"1\n2\n3\n", b"")


def test_poll_tells_only_the_end() -> None:
    with box().popen(["cat"], stdin=PIPE) as process:
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        wait_until(process.poll)
        first = process.poll()
        assert first is not None and first.success and process.poll() is first and process.wait() is first


def test_wait_gives_up_in_time_and_the_program_runs_on() -> None:
    with box().popen(["sleep", "60"]) as process:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"after 0\.1 s"):
            process.wait(0.1)
        assert 0.1 <= time.monotonic() - started < 5
        assert is_alive(process.pid)


def test_output_can_be_read_after_the_end() -> None:
    with box().popen(["sh", "-c", "echo late"], stdout=PIPE) as process:
        assert process.wait(10).stdout == b""  # the caller holds the pipe
        assert line_of(process.stdout) == "late"


def test_the_program_sees_the_end_of_its_input_when_it_is_waited_for() -> None:
    with box().popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert process.communicate(timeout=20) == (b"", b"")


@pytest.mark.parametrize(
    ("how", "ended"), [("terminate", ("SIGNALED", signal.SIGTERM)), ("kill", ("KILLED", signal.SIGKILL))]
)
def test_terminate_and_kill_end_it(how: str, ended: tuple[str, int]) -> None:
    with box().popen(["sleep", "60"]) as process:
        getattr(process, how)()
        result = process.wait(10)
        assert (result.reason, result.signal) == ended
        getattr(process, how)()  # what is wanted is the case already
        process.send_signal(signal.SIGUSR1)


def test_a_signal_is_for_the_program_and_not_for_its_children() -> None:
    code = "trap 'exit 9' USR1; sleep 60 & echo ready; wait"
    with box().popen(["sh", "-c", code], stdout=PIPE) as process:
        line_of(process.stdout)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(10).exit_code == 9


def test_leaving_the_block_kills_the_tree_and_closes_the_pipes() -> None:
    with box().popen(["sh", "-c", "setsid sleep 60 & echo $!; wait"], stdin=PIPE, stdout=PIPE) as process:
        daemon = number_here(int(line_of(process.stdout)), process.pid)
        stdout = process.stdout
        assert is_alive(daemon)
    assert stdout is not None and stdout.closed
    assert not is_alive(process.pid) and not is_alive(daemon)
    process.close()


def test_a_program_that_closed_its_input_is_no_error_for_who_leaves() -> None:
    with box().popen(["true"], stdin=PIPE) as process:
        wait_until(lambda: not is_alive(process.pid))
        assert process.stdin is not None
        process.stdin.write(b"nobody reads this")  # in the buffer, until it is closed


def test_an_interrupted_read_of_the_caller_leaves_nothing() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        process = box().popen([*PYTHON, "import time; time.sleep(60)"], stdout=PIPE)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt), process:
            process.communicate()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not is_alive(process.pid)
