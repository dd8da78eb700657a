"""A sandbox is saved while it runs, and goes on from there in others, confined as a launched one from the start."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoint_lab import NEEDED, SYSTEM, answer, ask, box, restored, saved, start

from sandlock import (
    DEVNULL,
    PIPE,
    CaptureError,
    Ids,
    ImageError,
    NotRunningError,
    RestoreError,
    Sandbox,
    load,
)

pytestmark = NEEDED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "file").write_text("content\n")
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"namespaces": "off"},
        {"more": ["/proc"]},
        {"max_processes": 4, "max_memory": "256M"},
        {"net_allow": ["127.0.0.1:9"], "name": "saved"},
        {"fs_denied": ["/usr/games"], "time_start": "2001-01-01T00:00:00Z", "num_cpus": 1},
    ],
    ids=lambda fields: "-".join(fields) or "kernel",
)
def test_it_goes_on_where_it_was_twice_at_once_and_the_first_runs_on(
    folder: Path, image: Path, fields: dict[str, Any]
) -> None:
    boxes = [box(folder, **fields) for _ in range(3)]
    with start(boxes[0]) as first:
        _, token, _ = ask(first)
        saved(boxes[0], image)
        assert ask(first) == ["2", token, "0"]
        with restored(boxes[1], image) as one, restored(boxes[2], image) as other:
            assert [ask(process) for process in (one, other)] == [["2", token, "0"]] * 2
            one.kill()
            assert one.wait(30).reason == "KILLED"
            assert ask(other) == ["3", token, "0"]
            assert ask(first) == ["3", token, "0"]
            assert other.stdin is not None
            other.stdin.close()
            assert other.wait(30).success
    assert {unsupported.kind for one in boxes[1:] for unsupported in one.restore_skipped} <= {"id"}


@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_the_restored_is_confined_as_the_launched(folder: Path, image: Path, namespaces: str, tree: Any) -> None:
    fields = {"namespaces": namespaces, "more": [str(tree.read)]}
    inside, outside = next(tree.read.glob("*")), next(tree.secret.glob("*"))
    questions = {
        f"len(open({str(inside)!r}).read()) >= 0": "True",
        f"open({str(outside)!r})": "EACCES",
        f"os.mkdir({str(tree.secret / 'made')!r})": None,
        "socket.socket()": "EPERM",
        "os.kill(1, 0)": "EPERM",
        "[line for line in open('/dev/urandom', 'rb').read(1)] and 'read'": "read",
    }
    first, second = box(folder, **fields), box(folder, **fields)
    with start(first) as process:
        before = {question: answer(process, question) for question in questions}
        saved(first, image, leave="killed")
    with restored(second, image) as process:
        assert {question: answer(process, question) for question in questions} == before
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert "CapEff:\t0000000000000000" in status
    assert {question: before[question] for question, wanted in questions.items() if wanted and wanted != "EPERM"} == {
        question: wanted for question, wanted in questions.items() if wanted and wanted != "EPERM"
    }
    assert not (tree.secret / "made").exists()


def test_a_stricter_policy_holds_from_the_first_instruction(folder: Path, image: Path, tree: Any) -> None:
    read = f"len(open({str(next(tree.read.glob('*')))!r}).read()) >= 0"
    first = box(folder, more=[str(tree.read)], max_processes=4)
    with start(first) as process:
        assert answer(process, read) == "True"
        assert answer(process, "forked()") == "0"
        saved(first, image)
    with restored(box(folder, max_processes=1), image) as process:
        assert answer(process, read) == "EACCES"
        assert answer(process, "forked()") == "EAGAIN"
    with restored(box(folder, more=[str(tree.read)], max_processes=4), image) as process:  # the same: both may
        assert answer(process, read) == "True"
        assert answer(process, "forked()") == "0"


def test_a_wider_policy_is_refused_by_the_name_of_the_field(folder: Path, image: Path, tree: Any) -> None:
    first = box(folder)
    with start(first) as process:
        ask(process)  # it has begun: before, glibc may hold a lock by its thread id, which changes
        saved(first, image)
    wider = box(folder, more=[str(tree.read)], net_allow=["127.0.0.1:9"])
    with pytest.raises(RestoreError) as caught:
        restored(wider, image)
    assert [one.name for one in caught.value.skipped] == ["policy:filesystem.read", "policy:network.allow"]
    assert not wider.is_running
    with restored(wider, image, allow=["policy"]) as process:
        assert answer(process, f"len(open({str(next(tree.read.glob('*')))!r}).read()) >= 0") == "True"


def test_the_clock_begins_where_the_policy_says(folder: Path, image: Path) -> None:
    year = "time.gmtime()[0], time.gmtime(time.time())[0]"
    dated = "subprocess.run(['date', '-u', '+%Y'], stdout=-1).stdout.decode().strip()"
    first = box(folder, time_start="2001-01-01T00:00:00Z")
    with start(first) as process:
        assert answer(process, year) == "(2001, 2001)"
        saved(first, image)
    for fields, wanted in (
        ({"time_start": "2001-01-01T00:00:00Z"}, "2001"),
        ({"time_start": "2033-06-01T00:00:00Z"}, "2033"),
        ({}, str(dt.datetime.now(dt.UTC).year)),
    ):
        with restored(box(folder, **fields), image) as process:
            assert answer(process, year) == f"({wanted}, {wanted})"
            assert answer(process, dated) == wanted


def test_random_bytes_come_from_the_policys_seed(folder: Path, image: Path) -> None:
    asked = "os.urandom(8).hex(), open('/dev/urandom', 'rb').read(8).hex()"
    first = box(folder, random_seed=7)
    with start(first) as process:
        ask(process)
        saved(first, image)

    def told(**fields: Any) -> str:
        with restored(box(folder, **fields), image) as process:
            return answer(process, asked)

    assert told(random_seed=7) == told(random_seed=7) != told(random_seed=8)
    assert told() != told()


def test_threads_go_on(folder: Path, image: Path) -> None:
    first = box(folder)
    with start(first) as process:
        ask(process, "workers(8)")
        assert answer(process, "doubled()") == "9900"
        saved(first, image)
    with restored(box(folder), image) as process:
        assert answer(process, "doubled()") == "9900"
        assert answer(process, "threading.active_count()") == "9"


PIPELINE = """
n=0
while read x; do n=$((n+1)); echo got $x $n; done | while read y; do echo $y; done | sed -u s/got/has/
"""


@pytest.mark.needs("pid_namespace")
def test_a_pipeline_goes_on_with_its_own_process_ids(folder: Path, image: Path) -> None:
    fields = {"more": ["/proc"], "max_processes": 5}
    first, second = box(folder, **fields), box(folder, **fields)
    with first.popen(["/bin/sh", "-c", PIPELINE], stdin=PIPE, stdout=PIPE) as process:
        assert ask(process, "one") == ["has", "one", "1"]
        saved(first, image)
    with restored(second, image) as process:
        assert second.restore_skipped == ()
        assert process.communicate(b"two\nthree\n", timeout=30)[0] == b"has two 2\nhas three 3\n"
        assert process.wait(30).exit_code == 0


THREADS = "sorted(map(int, os.listdir('/proc/self/task')))"
FAMILY = """
read x; (read x; echo mine $x); /bin/true; /bin/true
sleep 1000 & one=$!; /bin/true; sleep 1000 & two=$!
echo up $one $two; read x; kill $one $two; wait $one; wait $two; echo $one $two $?
"""


@pytest.mark.needs("pid_namespace")
def test_ids_with_gaps_between_them_are_kept(folder: Path, image: Path) -> None:
    first, second = box(folder, more=["/proc"]), box(folder, more=["/proc"])
    with start(first) as process:
        for question in ("workers(1)", "forked()", "forked()", "workers(1)", "forked()", "workers(2)"):
            answer(process, question)
        before = answer(process, THREADS)
        assert before == "[2, 3, 6, 8, 9]"
        saved(first, image)
    with restored(second, image, ids=Ids.KEEP) as process:
        assert second.restore_skipped == ()
        assert answer(process, THREADS) == before
        assert answer(process, "doubled()") == "9900"
    with restored(second, image, ids=Ids.NEW) as process:  # what the kernel gives by itself
        assert answer(process, THREADS) == "[2, 3, 4, 5, 6]"


@pytest.mark.needs("pid_namespace")
def test_children_keep_ids_with_gaps_between_them(folder: Path, image: Path) -> None:
    first, second = box(folder, more=["/proc"]), box(folder, more=["/proc"])
    with first.popen(["/bin/sh", "-c", FAMILY], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\nb\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"mine b\n"
        words = process.stdout.readline().split()
        assert words[0] == b"up"
        one, two = words[1:]
        assert int(two) - int(one) == 2
        saved(first, image)
    with restored(second, image) as process:
        assert second.restore_skipped == ()
        told = process.communicate(b"c\n", timeout=30)[0]
        assert told == b"%b %b 143\n" % (one, two)


def test_threads_that_have_other_ids_are_told(folder: Path, image: Path) -> None:
    first, second = box(folder, namespaces="off"), box(folder, namespaces="off")
    with start(first) as process:
        answer(process, "workers(2)")
        saved(first, image)
    with restored(second, image) as process:
        assert answer(process, "doubled()") == "9900"
        assert [one.kind for one in second.restore_skipped] == ["id"] * 3
    with pytest.raises(RestoreError):
        restored(second, image, ids=Ids.KEEP)


def test_several_processes_without_their_ids_are_refused(folder: Path, image: Path) -> None:
    first = box(folder, namespaces="off")
    with first.popen(["/bin/sh", "-c", PIPELINE], stdin=PIPE, stdout=PIPE) as process:
        assert ask(process, "one") == ["has", "one", "1"]
        saved(first, image)
    second = box(folder, namespaces="off")
    with pytest.raises(RestoreError, match="pid"):
        restored(second, image)
    with restored(second, image, allow=["id"]) as process:
        assert process.communicate(b"two\n", timeout=30)[0] == b"has two 2\n"
    assert len(second.restore_skipped) == 4


WRITER = """
import sys
log = open("log", "a+")
with open("kept", "r+") as kept:
    for line in iter(sys.stdin.readline, ""):
        log.write(line)
        log.flush()
        kept.write("x")
        kept.flush()
        print(log.tell(), kept.tell(), flush=True)
"""


@pytest.mark.needs("mount_namespace")
def test_a_branch_and_the_files_open_in_it_come_back(folder: Path, image: Path, tmp_path: Path) -> None:
    (folder / "kept").write_text("old")
    fields = {"workdir": str(folder), "fs_storage": str(tmp_path / "storage")}
    first = box(folder, **fields)
    with first.popen(["/usr/bin/python3", "-c", WRITER], stdin=PIPE, stdout=PIPE) as process:
        assert ask(process, "a") == ["2", "1"]
        saved(first, image, leave="killed")
    assert (folder / "kept").read_text() == "old"
    for _ in range(2):
        second = box(folder, **fields)
        with restored(second, image) as process:
            assert ask(process, "b") == ["4", "2"]
            assert process.stdin is not None
            process.kill()  # on_error is abort: nothing reaches the real tree
            assert not process.wait(30).success
    assert sorted(os.listdir(folder)) == ["file", "kept"]
    with restored(box(folder, **fields), image) as process:
        assert process.communicate(b"c\n", timeout=30)[0] == b"4 2\n"
    assert ((folder / "log").read_text(), (folder / "kept").read_text()) == ("a\nc\n", "xxd")
    # Now the real files are others than those that were open.
    with pytest.raises(RestoreError, match="branch"):
        restored(box(folder), image, allow=["policy"])


def test_a_tampered_image_is_refused(folder: Path, image: Path) -> None:
    first = box(folder)
    with start(first) as process:
        ask(process)  # it has begun: before, glibc may hold a lock by its thread id, which changes
        saved(first, image)
    policy = image / "policy.json"
    text = policy.read_bytes()
    policy.write_bytes(text.replace(b"/usr", b"/var", 1))
    second = box(folder)
    with pytest.raises(ImageError, match=r"policy\.json"):
        restored(second, image)
    assert not second.is_running
    policy.write_bytes(text)
    image.chmod(0o755)
    with pytest.raises(ImageError):
        restored(second, image)
    image.chmod(0o700)
    with restored(second, image) as process:
        ask(process)


def test_what_fails_leaves_nothing_and_the_sandbox_free(folder: Path, image: Path) -> None:
    first = box(folder)
    with start(first) as process:
        ask(process, "globals().__setitem__('held', open('file'))")
        saved(first, image)
    second = box(folder)
    (folder / "file").rename(folder / "old")
    (folder / "file").write_text("content\n")
    with pytest.raises(RestoreError, match="another file"):
        restored(second, image)
    assert not second.is_running
    assert second.run(["/bin/true"]).success
    (folder / "old").rename(folder / "file")
    with restored(second, image) as process:
        assert answer(process, "held.read().strip()") == "content"


def test_the_callers_bytes_and_the_saved_policy_are_in_the_image(folder: Path, image: Path) -> None:
    first = box(folder, env={"NAME": "value-of-it"})
    with start(first) as process:
        ask(process)
        saved(first, image, save_fn=lambda: b"state")
        with pytest.raises(ZeroDivisionError):
            first.checkpoint(lambda: b"%d" % (1 // 0))
        with pytest.raises(TypeError):
            first.checkpoint(lambda: "text")  # type: ignore[arg-type,return-value]  # the mistake
        assert ask(process)[0] == "2"  # it was let go each time
    with load(image) as checkpoint:
        assert checkpoint.app_state == b"state"
        assert str(folder) in checkpoint.policy
        assert "value-of-it" not in checkpoint.policy


def test_no_credential_is_in_the_image(folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's secret is nowhere; what the program was given (its memory) is there, so the search can find."""
    monkeypatch.setenv("API_TOKEN", "never-to-be-seen")
    sandbox = box(
        folder,
        http_allow=["GET localhost:9/*"],
        http_ports=[9],
        credentials=["T=env:API_TOKEN"],
        http_auth=["GET localhost:9/* bearer T"],
        clean_env=False,
    )
    with start(sandbox) as process:
        token = ask(process)[1]
        saved(sandbox, image)
    written = b"".join(path.read_bytes() for path in image.rglob("*") if path.is_file())
    assert token.encode() in written
    assert b"API_TOKEN" in written  # the name, in the policy
    assert b"never-to-be-seen" not in written


def test_nothing_to_save_and_what_cannot_be_saved(folder: Path) -> None:
    sandbox = box(folder)
    with pytest.raises(NotRunningError):
        sandbox.checkpoint()
    reader, writer = os.pipe()
    try:
        with sandbox.popen(["/bin/sh", "-c", "read x"], stdin=PIPE, pass_fds=[reader]) as process:
            with pytest.raises(CaptureError) as caught:
                sandbox.checkpoint()
            assert [one.name for one in caught.value.unsupported] == [f"fd:{reader}"]
            sandbox.checkpoint(allow=[f"fd:{reader}"]).close()
            assert process.communicate(b"go on\n", timeout=30) == (b"", b"")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_daemon_that_is_below_nobody_is_told(folder: Path) -> None:
    sandbox = box(folder)
    script = "(sleep 600 </dev/null >/dev/null 2>&1 &) ; echo; read x"
    with sandbox.popen(["/bin/sh", "-c", script], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(CaptureError) as caught:
            sandbox.checkpoint()
        assert {one.kind for one in caught.value.unsupported} == {"process"}
        sandbox.checkpoint(allow=["process"]).close()


def test_execs_under_way_are_not_lost(folder: Path) -> None:
    sandbox = box(folder, time_start="2001-01-01T00:00:00Z", max_processes=8)
    script = "read go; n=0; while [ $n -lt 150 ]; do n=$((n+1)); /bin/true || echo failed $n; done; echo over"
    with sandbox.popen(["/bin/sh", "-c", script], stdin=PIPE, stdout=PIPE) as process:
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.extend(process.communicate(b"go\n", timeout=60)))
        reader.start()
        while reader.is_alive():
            try:
                sandbox.checkpoint().close()
            except (CaptureError, NotRunningError):
                if process.poll() is not None:
                    break
            reader.join(0.02)
        reader.join(60)
    assert found[0] == b"over\n"


ATTENDED = """
import sys
from sandlock import Sandbox
print(Sandbox(**eval(sys.argv[2])).restore_interactive(sys.argv[1]), flush=True)
"""


def test_restored_interactively_it_has_the_callers_streams(folder: Path, image: Path) -> None:
    fields: dict[str, Any] = {"fs_readable": [*SYSTEM, str(folder)], "cwd": str(folder), "fs_writable": ["-/dev/null"]}
    first = Sandbox(**fields)
    with first.popen(["/bin/sh", "-c", "read x; echo $x; exit 7"], stdin=PIPE, stdout=DEVNULL):
        saved(first, image)
    done = subprocess.run(
        [sys.executable, "-c", ATTENDED, str(image), repr(fields)],
        check=True, input=b"hello\n", stdout=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    assert done.stdout == b"hello\n7\n"
