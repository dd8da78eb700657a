"""What a sandbox shows of the machine: its own processes, its own name, another root, as many processors as it says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sandlock import PolicyError, Result, Sandbox, SandboxError
from sandlock_sys.openat2 import AT_FDCWD
from sandlock_sys.rename import exchange

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("mount_namespace")]
both_ways = pytest.mark.usefixtures("way")
DEFAULTS: dict[str, Any] = {}

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache"]


@pytest.fixture(params=["auto", pytest.param("off", id="served")])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether namespaces show the view, or the supervisor: the same either way."""
    monkeypatch.setitem(DEFAULTS, "namespaces", request.param)
    return str(request.param)


def sh(script: str, **fields: Any) -> Result:
    return Sandbox(**{**DEFAULTS, **fields}).run(["/bin/sh", "-c", script], timeout=30)


def lines(result: Result) -> list[str]:
    return result.stdout.decode().split("\n")[:-1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with empty places for mounts, and a link that leads out of it."""
    for folder in ("usr", "proc", "tmp", "dev", "etc", "data", "out"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tmp_path / "root" / name).symlink_to(f"usr/{name}")
    for name in ("etc/hostname", "dev/null"):
        (tmp_path / "root" / name).write_text("of the root\n")
    (tmp_path / "secret").write_text("outside\n")
    (tmp_path / "root/data/link").symlink_to(tmp_path / "secret")
    return tmp_path / "root"


def boxed(root: Path, script: str, **fields: Any) -> Result:
    fields = {"fs_readable": ["/"], "fs_mount_ro": {"/usr": "/usr"}, **fields}
    return sh(script, chroot=str(root), **fields)


def test_inf_01_foreign_processes_are_absent_by_every_alias() -> None:
    outsider = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pid = outsider.pid
    script = f"""
ls /proc | grep -cx {pid}
for p in /proc/{pid} /proc/self/../{pid} /proc/1/root/proc/{pid} /proc/thread-self/../../../{pid}/stat; do
    test -e $p && echo there; cat $p/cmdline 2>/dev/null; ls -d $p 2>/dev/null; done
cat /proc/self/stat > /dev/null && echo own
sleep 5 & test -r /proc/$!/status && echo child
kill -0 {pid} 2>/dev/null && echo alive
true
"""
    try:
        assert Path(f"/proc/{pid}/stat").read_bytes()  # bare, everything of it is readable
        result = sh(script, fs_readable=[*SYSTEM, "/proc"], fs_writable=["/dev/null"])
        assert lines(result) == ["0", "own", "child"]
    finally:
        outsider.kill()
        outsider.wait()


def test_the_exit_status_is_the_programs_own_and_not_its_inits() -> None:
    for script, code in (("exit 7", 7), ("kill -9 $$", -1)):
        assert sh(script, fs_readable=[*SYSTEM, "/proc"]).exit_code == code
    assert sh("kill -15 $$", fs_readable=[*SYSTEM, "/proc"]).signal == 15


def test_daemons_end_with_their_pid_namespace() -> None:
    mark = f"{time.time_ns()}"
    sh(f"setsid sleep 1234 {mark} & sleep 0.2", fs_readable=[*SYSTEM, "/proc"])
    alive = [pid for pid in os.listdir("/proc") if pid.isdigit() and mark in _command_of(pid)]
    assert alive == []


def _command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_inf_04_nothing_of_proc_can_be_written() -> None:
    files = "/proc/sys/kernel/hostname /proc/self/oom_score_adj /proc/sysrq-trigger"
    result = sh(f"for f in {files}; do echo 1 > $f && echo written; done", fs_readable=[*SYSTEM, "/proc"])
    assert lines(result) == []
    assert result.stderr.count(b"cannot create") == 3


def test_the_name_is_the_host_name_everywhere() -> None:
    grants = [*SYSTEM, "/proc", "/etc/hostname"] if os.path.exists("/etc/hostname") else [*SYSTEM, "/proc"]
    script = "uname -n; cat /proc/sys/kernel/hostname; if test -e /etc/hostname; then cat /etc/hostname; fi"
    result = sh(script, fs_readable=grants, name="box-7")
    assert set(lines(result)) == {"box-7"}
    assert os.uname().nodename != "box-7"


@pytest.mark.parametrize("count", [1, 3, 64])
def test_the_number_of_processors_is_the_same_everywhere(count: int) -> None:
    script = """
nproc
grep -c '^processor' /proc/cpuinfo
grep -c '^cpu[0-9]' /proc/stat
cat /sys/devices/system/cpu/online
/usr/bin/python3 -c 'import os; print(os.cpu_count(), len(os.sched_getaffinity(0)))'
"""
    grants = [*SYSTEM, "/proc", "/sys/devices/system/cpu"]
    if "processor" not in Path("/proc/cpuinfo").read_text():
        pytest.fail("this machine names no processor in /proc/cpuinfo")
    result = sh(script, fs_readable=grants, num_cpus=count)
    online = "0" if count == 1 else f"0-{count - 1}"
    assert lines(result) == [str(count), str(count), str(count), online, f"{count} {count}"], result.stderr


@both_ways
def test_another_root_holds_all_that_can_be_reached(root: Path) -> None:
    script = f"""
pwd; cat /etc/hostname; readlink /proc/self/cwd; ls / | tr '\\n' ' '; echo
for p in /data/link {root.parent}/secret /../../../../secret /proc/self/root/../secret /proc/1/root/secret; do
    cat $p; done 2>&1 | grep -c outside
cat /data/link > /dev/null 2>&1 || echo closed
"""
    result = boxed(root, script, fs_writable=["-/dev/null"])
    listing = "bin data dev etc lib lib64 out proc sbin tmp usr "
    assert lines(result) == ["/", "of the root", "/", listing, "0", "closed"], result
    assert (root.parent / "secret").read_text() == "outside\n"  # and the link does lead there, outside


@both_ways
def test_writes_stay_in_the_grants_of_the_root(root: Path) -> None:
    refused = "echo b > /out/new; chmod 700 /out; touch /usr/x"
    result = boxed(root, f"echo a > /data/new; chmod 700 /data; {refused}; cat /data/new", fs_writable=["/data"])
    assert lines(result) == ["a"]
    assert (root / "data/new").read_text() == "a\n"
    assert (root / "data").stat().st_mode & 0o777 == 0o700
    assert not (root / "out/new").exists()
    assert (root / "out").stat().st_mode & 0o777 != 0o700
    assert not os.path.exists("/usr/x")


@both_ways
def test_w38_a_link_in_the_root_grants_nothing_of_the_host(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "host"
    outside.mkdir()
    (root / "planted").symlink_to(outside)
    result = boxed(root, "echo x > /planted/file; mkdir /planted/d; ls /planted", fs_writable=["-/planted"])
    assert list(outside.iterdir()) == []
    assert lines(result) == ["/planted"]  # the link itself, which leads nowhere here
    assert os.access(outside, os.W_OK)  # and the host's user could write there


@both_ways
def test_mounts_show_the_hosts_folders_at_their_places(root: Path, tmp_path: Path) -> None:
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    script = "cat /data/f /out/f; echo; echo new > /data/g; echo new > /out/g; touch /data/f"
    mounts = {"/usr": "/usr", "/out": str(tmp_path / "ro")}
    result = boxed(root, script, fs_mount={"/data": str(tmp_path / "rw")}, fs_mount_ro=mounts)
    assert lines(result) == ["rwro"]
    assert (tmp_path / "rw/g").read_text() == "new\n"
    assert not (tmp_path / "ro/g").exists()


@both_ways
def test_a_mount_without_another_root_covers_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place/hidden").write_text("hidden")
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/file").write_text("shown")
    result = sh(f"ls {tmp_path}/place; cat {tmp_path}/place/file", fs_readable=SYSTEM,
                fs_mount_ro={str(tmp_path / "place"): str(tmp_path / "shown")})  # fmt: skip
    assert lines(result)[0] == "file"
    assert result.stdout.endswith(b"shown")


@both_ways
@pytest.mark.parametrize("rooted", [True, False])
def test_the_mount_with_the_longest_path_wins(root: Path, tmp_path: Path, rooted: bool) -> None:
    for name in ("outer/inner/deep", "inner/deep", "deep"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("outer", "inner", "deep"):
        (tmp_path / name / "which").write_text(f"{name}\n")
    (tmp_path / "one").write_text("one file\n")
    (tmp_path / "outer/one").write_text("another\n")
    (root / "data/inner/deep").mkdir(parents=True)
    place = "/data" if rooted else str(root / "data")
    script = f"""cd {place}; cat which inner/which inner/deep/which one
    for folder in . inner inner/deep; do echo x > $folder/made; done; echo x > one; cat {place}/inner/deep/../which"""
    fields = {
        "fs_mount": {place: str(tmp_path / "outer"), f"{place}/inner/deep": str(tmp_path / "deep")},
        "fs_mount_ro": {f"{place}/inner": str(tmp_path / "inner"), f"{place}/one": str(tmp_path / "one")},
    }
    if rooted:
        fields["fs_mount_ro"]["/usr"] = "/usr"
        result = boxed(root, script, **fields)
    else:
        result = sh(script, fs_readable=SYSTEM, **fields)
    assert lines(result) == ["outer", "inner", "deep", "one file", "inner"], result
    made = [name for name in ("outer", "inner", "deep") if (tmp_path / name / "made").exists()]
    assert (made, (tmp_path / "one").read_text()) == (["outer", "deep"], "one file\n")


@both_ways
def test_programs_below_a_mount_run(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/hello").write_text("#!/bin/sh\necho hello from $0\n")
    (tmp_path / "tools/hello").chmod(0o755)
    result = boxed(root, "/out/hello", fs_mount_ro={"/usr": "/usr", "/out": str(tmp_path / "tools")})
    assert lines(result) == ["hello from /out/hello"]


@both_ways
def test_a_private_temporary_directory_is_tmp_in_another_root(root: Path) -> None:
    result = boxed(root, "echo $TMPDIR; echo x > /tmp/x && ls /tmp", private_tmp=True)
    assert lines(result) == ["/tmp", "x"]
    assert list((root / "tmp").iterdir()) == []


@both_ways
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"chroot": "/no/such/root"}, "is no directory"),
        ({"fs_mount": {"/usr": "/no/such/host"}}, "does not exist on the host"),
        ({"fs_mount": {"/no/such/place": "/usr"}}, "a mount needs a place"),
        ({"fs_mount": {"/mnt": "/usr", "/mnt/no/such": "/usr"}}, "does not exist in /usr, which .* needs a place"),
        ({"chroot": "/", "namespaces": "off", "supervisor": False}, "chroot .*needs the supervisor"),
        ({"fs_mount": {"/mnt": "/proc"}}, "/proc shows the host's processes"),
        ({"fs_mount_ro": {"/mnt": "/"}}, "/ shows the host's processes, in /proc"),
        (
            {"fs_mount_ro": {"/mnt": "/proc/self/task"}},
            r"/proc/self/task shows the host's processes, in /proc/\d+/task",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        sh("true", fs_readable=["/"], **fields)


@both_ways
def test_inf_01_a_link_to_the_hosts_proc_is_no_way_to_mount_it(tmp_path: Path) -> None:
    """What is refused is what would be shown; a part of /proc that is about the machine is mounted as any folder."""
    (tmp_path / "link").symlink_to("/proc")
    with pytest.raises(PolicyError, match="shows the host's processes"):
        sh("true", fs_readable=SYSTEM, fs_mount_ro={"/mnt": str(tmp_path / "link")})
    told = sh("cat /mnt/ostype; ls -d /mnt/[0-9]*", fs_readable=SYSTEM, fs_mount_ro={"/mnt": "/proc/sys/kernel"})
    assert lines(told) == ["Linux"]


@both_ways
def test_fifty_views_leave_nothing(root: Path) -> None:
    boxed(root, "true")
    fds = len(os.listdir("/proc/self/fd"))
    mounts = Path("/proc/self/mountinfo").read_text()
    for _ in range(50):
        assert boxed(root, "true", name="n").success
    assert len(os.listdir("/proc/self/fd")) == fds
    assert Path("/proc/self/mountinfo").read_text() == mounts


SHOW = "for d in /proc /proc2 /a; do if test -e $d/{pid}; then echo host; elif test -e $d/1; then echo own; fi; done"


def test_inf_01_a_link_in_place_of_proc_is_refused(root: Path) -> None:
    script = SHOW.format(pid=os.getpid())
    assert lines(boxed(root, script)) == ["own"]
    (root / "proc").rename(root / "a")
    (root / "proc").symlink_to("a")
    with pytest.raises(SandboxError, match=r"proc: .*Not a directory"):
        boxed(root, script)


def test_inf_01_the_hosts_proc_stays_hidden_when_the_name_changes_meanwhile(root: Path) -> None:
    """A link and a folder change places all the time: each launch is refused or shows its own /proc, and only that."""
    (root / "a").mkdir()
    (root / "proc2").symlink_to("a")
    stop, told = threading.Event(), []

    def flip() -> None:
        while not stop.is_set():
            exchange(AT_FDCWD, os.fsencode(root / "proc"), AT_FDCWD, os.fsencode(root / "proc2"))
            time.sleep(0.0002)

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                told += lines(boxed(root, SHOW.format(pid=os.getpid())))
            except (SandboxError, PolicyError):
                told.append("refused")
    finally:
        stop.set()
        flipping.join()
    assert "host" not in told
    assert {"own", "refused"} <= set(told)


def test_ll_24_a_bundle_is_read_inside_the_root(root: Path, tmp_path: Path) -> None:
    """A link that a program has left in its root must not show a file of the host's, nor one beside it."""
    secret, bundle = tmp_path / "key", root / "etc/ca.pem"
    content = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    secret.write_text(f"SECRET\n{content}")
    bundle.write_text(f"MINE\n{content}")
    fields: dict[str, Any] = {"http_allow": ["GET 127.0.0.1:8080/*"], "http_inject_ca": ["/etc/ca.pem"]}
    told = boxed(root, "cat /etc/ca.pem", **fields).stdout
    assert told.startswith(b"MINE")
    assert told.count(b"BEGIN CERTIFICATE") == 2
    bundle.rename(root / "etc/real.pem")
    bundle.symlink_to("/etc/real.pem")  # of the root's
    assert boxed(root, "cat /etc/ca.pem", **fields).stdout.startswith(b"MINE")
    bundle.unlink()
    bundle.symlink_to(secret)
    with pytest.raises(PolicyError, match=r"ca\.pem"):
        boxed(root, "cat /etc/ca.pem", **fields)
    inside = Path(f"{root}{secret}")  # so that the link leads somewhere on both sides
    inside.parent.mkdir(parents=True)
    inside.write_text(f"MINE\n{content}")
    assert boxed(root, "cat /etc/ca.pem", **fields).stdout.startswith(b"MINE")
    outside = tmp_path / "link.pem"
    outside.symlink_to(secret)
    with pytest.raises(PolicyError, match=r"link\.pem"):
        sh("true", fs_readable=SYSTEM, **{**fields, "http_inject_ca": [str(outside)]})
    assert sh(
        f"cat {secret}", fs_readable=[*SYSTEM, str(secret)], **{**fields, "http_inject_ca": [str(secret)]}
    ).success
