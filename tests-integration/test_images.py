"""Programs in the file system of an image: `image=`, `--image`, and the verb `images`."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_lab import Command

from sandlock import OciImageError, PolicyError, Sandbox, list_images, remove_image
from sandlock_testkit.oci import OciLayout, entry, layer

pytestmark = [
    pytest.mark.needs("landlock", level=1),
    pytest.mark.needs("mount_namespace"),
    pytest.mark.needs("command:busybox"),
]

PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv/app:/bin/sh\n"


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> OciLayout:
    """Busybox with a few links, a file to change, and a configuration."""
    made = OciLayout(tmp_path_factory.mktemp("image") / "oci")
    programs = [
        entry(f"bin/{name}", "busybox") for name in ("sh", "ls", "cat", "id", "ps", "rm", "env", "sleep", "touch")
    ]
    busybox = entry("bin/busybox", Path("/usr/bin/busybox").read_bytes(), mode=0o755)
    made.add(
        layer(busybox, *programs, entry("etc/passwd", PASSWD), entry("file", b"from the image\n")),
        layer(entry("upper/.keep", b"")),
        Env=["GREETING=hello", "PATH=/bin"],
        WorkingDir="/srv/app",
        Entrypoint=["/bin/sh", "-c", 'echo "$@"', "entry"],
        Cmd=["the", "default"],
        User="app",
    )
    return made


@pytest.fixture
def image(oci: OciLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return f"oci:{oci.path}"


def run(image: str, script: str, **fields: Any) -> str:
    result = Sandbox(image=image, **fields).run(["sh", "-c", script], timeout=60)
    assert not result.stderr, result
    return result.stdout.decode()


def test_a_command_runs_in_the_file_system_of_the_image(image: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("of the host")
    script = f"cat /file; ls /; cat {tmp_path}/outside 2>/dev/null || echo not there; ls /proc/1/cmdline; ps | wc -l"
    script = script.replace("wc -l", "busybox wc -l")
    lines = run(image, script).split()
    assert lines[:3] == ["from", "the", "image"]
    assert lines[3:14] == "bin dev etc file proc root run srv sys tmp upper".split()
    assert lines[14:] == ["not", "there", "/proc/1/cmdline", "5"]


def test_what_is_written_is_seen_and_dropped(image: str, tmp_path: Path) -> None:
    result = Sandbox(image=image).run(["sh", "-c", "echo new > /file; rm -r /upper; echo x > /srv/app/x; cat /file x"])
    assert result.stdout == b"new\nx\n"
    assert {(change.kind, change.path) for change in result.changes} >= {
        ("M", "file"),
        ("D", "upper"),
        ("A", "srv/app/x"),
    }
    assert run(image, "cat /file; ls /upper/.keep") == "from the image\n/upper/.keep\n"
    assert os.listdir(tmp_path / "state/sandlock/branches") == []


def test_the_configuration_holds_where_the_policy_says_nothing(image: str) -> None:
    assert run(image, "pwd; echo $GREETING $HOME $PATH").split() == ["/srv/app", "hello", "/srv/app", "/bin"]
    env = {"GREETING": "other", "HOME": "/tmp"}
    assert run(image, "pwd; echo $GREETING $HOME", env=env, cwd="/etc").split() == ["/etc", "other", "/tmp"]
    assert Sandbox(image=image).run([]).stdout == b"the default\n"


def test_a_folder_of_the_host_is_shown_where_it_is_mounted(image: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    assert run(image, "echo kept > /srv/app/x; cat /srv/app/x", fs_mount={"/srv/app": str(shared)}) == "kept\n"
    assert (shared / "x").read_text() == "kept\n"


def test_devices_and_temporary_files_are_there(image: str) -> None:
    script = "echo x > /dev/null; busybox head -c 3 /dev/zero | busybox wc -c; "
    script += "echo y > /tmp/y; echo z > /dev/shm/z; cat /tmp/y /dev/shm/z"
    assert run(image, script) == "3\ny\nz\n"
    assert run(image, "echo y > $TMPDIR/y; cat /tmp/y", private_tmp=True) == "y\n"


def test_programs_of_the_image_stay_confined(image: str) -> None:
    result = Sandbox(image=image).run(["sh", "-c", "busybox mount -t tmpfs x /tmp; busybox nc -w 1 127.0.0.1 9"])
    assert b"ermitted" in result.stderr or b"denied" in result.stderr
    assert result.exit_code != 0


def test_without_namespaces_the_supervisor_shows_it(image: str, tmp_path: Path) -> None:
    script = (
        "cat /file; ls /; echo x > /dev/null; busybox head -c 3 /dev/zero | busybox wc -c; "
        "echo new > /file; cat /file; "
        "echo y > /tmp/y; rm -r /upper; ls /upper 2>/dev/null; pwd"
    )
    result = Sandbox(image=image, namespaces="off").run(["sh", "-c", script], timeout=60)
    assert result.stderr == b"", result
    lines = result.stdout.decode().split()
    assert lines[:3] == ["from", "the", "image"]
    assert lines[3:14] == "bin dev etc file proc root run srv sys tmp upper".split()
    assert lines[14:] == ["3", "new", "/srv/app"]
    assert {("M", "file"), ("A", "tmp/y")} <= {(change.kind, change.path) for change in result.changes}
    assert run(image, "cat /file", namespaces="off") == "from the image\n"
    assert os.listdir(tmp_path / "state/sandlock/branches") == []


def test_a_program_that_is_not_in_the_image_is_not_found(image: str) -> None:
    with pytest.raises(FileNotFoundError):
        Sandbox(image=image).run(["/usr/bin/python3", "-c", ""])


def test_a_run_holds_its_image(image: str) -> None:
    sandbox = Sandbox(image=image)
    process = sandbox.popen(["sh", "-c", "echo up; sleep 60"], stdout=-1)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        (cached,) = list_images()
        with pytest.raises(OciImageError, match="a run uses it"):
            remove_image(cached.digest)
    finally:
        process.kill()
        process.wait()
    assert remove_image(cached.digest) == cached
    assert list_images() == ()


def test_many_runs_leave_nothing(image: str, tmp_path: Path) -> None:
    sandbox = Sandbox(image=image)
    sandbox.run(["sh", "-c", "true"])
    gc.collect()
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        assert sandbox.run(["sh", "-c", "echo x > /x"]).success
        with pytest.raises(FileNotFoundError):
            sandbox.run(["/not/there"])
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert os.listdir(tmp_path / "state/sandlock/branches") == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"chroot": "/"}, "both the root"),
        ({"workdir": "/tmp"}, "fs_mount"),
        ({"on_exit": "keep"}, "discarded"),
        ({"on_error": "commit"}, "discarded"),
    ],
)
def test_what_an_image_cannot_be_with_is_refused_by_name(image: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        Sandbox(image=image, **fields).run(["sh", "-c", "true"])


@pytest.fixture
def sandlock(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_the_command_runs_lists_and_removes_images(sandlock: Command, oci: OciLayout, tmp_path: Path) -> None:
    file = oci.archive(tmp_path / "image.tar")
    done = sandlock("run", "--image", f"oci-archive:{file}", "--", "cat", "/file")
    assert (done.returncode, done.stdout, done.stderr) == (0, "from the image\n", "")
    assert sandlock("run", "--image", "oci-archive:../image.tar").stdout == "the default\n"
    assert sandlock("--image", f"oci:{oci.path}", "-e", "exit 7").returncode == 7
    (listed,) = sandlock.told("images")["images"]
    assert listed["source"] == f"oci-archive:{file}"
    assert listed["digest"] == oci.manifests[0]["digest"]
    digits = listed["digest"][7:19]
    (line,) = sandlock("images").stdout.splitlines()
    assert line.startswith(digits)
    assert sandlock("images", "remove", "f" * 64).returncode == 1
    assert sandlock("images", "remove", digits).returncode == 0
    assert sandlock("images", "list").stdout == ""
    assert sandlock("images", "remove", "--all").returncode == 0


def test_what_a_killed_run_leaves_never_reaches_the_image(sandlock: Command, oci: OciLayout) -> None:
    words = ["run", "--image", f"oci:{oci.path}"]
    running = sandlock.start(*words, "-e", "echo evil > /file; echo up; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.kill()
    running.communicate()
    (branch,) = sandlock.listed("branches", "branches")
    assert "M 100644 file" in sandlock("diff", branch["name"]).stdout
    done = sandlock("commit", branch["name"])
    assert done.returncode == 1
    assert "covers an unpacked image" in done.stderr
    assert sandlock(*words, "--", "cat", "/file").stdout == "from the image\n"
    assert sandlock("discard", branch["name"]).returncode == 0
    assert sandlock("branches").stdout == ""


def test_unpacking_is_drawn_on_a_terminal_only(sandlock: Command, oci: OciLayout) -> None:
    done, drawn = sandlock.on_terminal("run", "--image", f"oci:{oci.path}", "--", "cat", "/file")
    assert done.stdout == b"from the image\n"
    assert b"of the image" in drawn
    assert drawn.endswith(b"\r\x1b[K"), "it is erased at the end"
    assert sandlock("images", "remove", "--all").returncode == 0
    done, drawn = sandlock.on_terminal("run", "--quiet", "--image", f"oci:{oci.path}", "--", "cat", "/file")
    assert (done.stdout, drawn) == (b"from the image\n", b"")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["run", "--image", "oci:/no/such", "true"], 125, "/no/such"),
        (["run", "--image", "docker://x", "true"], 125, "oci:DIR"),
        (["run", "--image", "oci:${NOT_SET}/x", "true"], 125, "NOT_SET"),
        (["run", "--image", "oci:.", "true"], 125, "oci-layout"),
        (["images", "prune"], 2, "prune"),
        (["images", "remove"], 2, "--all"),
        (["images", "list", "x"], 2, "takes no x"),
    ],
)
def test_what_is_no_image_is_told(sandlock: Command, words: list[str], status: int, said: str) -> None:
    done = sandlock(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_explain_unpacks_nothing(sandlock: Command, oci: OciLayout) -> None:
    done = sandlock("run", "--explain", "--json", "--image", f"oci:{oci.path}", "--", "cat", "/file")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rules"]
    assert sandlock("images").stdout == ""
