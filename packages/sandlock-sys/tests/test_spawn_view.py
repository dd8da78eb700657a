"""What is laid over the host's files: generated files, binds, another root, another host name, and rules for them."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import new_request, output_of

from sandlock_sys import landlock
from sandlock_sys.spawn import NO_THP, SpawnError, SpawnRequest, spawn

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

pytestmark = [pytest.mark.usefixtures("leaks"), pytest.mark.needs("mount_namespace")]

READ_FILE, READ_DIR, EXECUTE = 1 << 2, 1 << 3, 1 << 0  # LANDLOCK_ACCESS_FS_*, ABI 1
SHELL = [b"/usr", b"/bin", b"/lib", b"/lib64", b"/etc"]
USER: dict[str, Any] = {"id_map": (os.getuid(), os.getgid()) if os.geteuid() != 0 else None}
NAMESPACES = pytest.mark.parametrize("pid", [False, True], ids=["mounts", "pid"])
BOTH = pytest.mark.parametrize("flags", [0, NO_THP], ids=["shared-memory", "own-memory"])


def inside(script: str, *, pid: bool = False, **fields: Any) -> list[str]:
    fields = {"scoped": not pid, "pid_namespace": pid, **USER, **fields}
    return output_of(["sh", "-c", f"exec 2>&1; {script}; true"], **fields).decode().splitlines()


@NAMESPACES
@BOTH
def test_generated_files_cover_virtual_and_real_ones(flags: int, tree: Tree, *, pid: bool) -> None:
    real = tree.read / "data.txt"
    files = [
        (b"/proc/cpuinfo", b"processor: 0\n"),
        (b"/proc/meminfo", b"x" * 100_000),
        (bytes(real), b""),
        (b"/sys/devices/system/cpu/online", b"0\n"),
    ]
    script = f"cat /proc/cpuinfo; wc -c < /proc/meminfo; wc -c < {real}; cat /sys/devices/system/cpu/online"
    assert inside(script, pid=pid, flags=flags, overlays=files) == ["processor: 0", "100000", "0", "0"]
    assert real.read_text() == tree.readable, "the host's own is as it was"
    assert "MemTotal" in Path("/proc/meminfo").read_text()


@NAMESPACES
def test_generated_files_cannot_be_changed_and_hide_where_they_came_from(*, pid: bool) -> None:
    script = (
        "echo x > /proc/cpuinfo; chmod 777 /proc/cpuinfo; rm -f /proc/cpuinfo; cat /proc/cpuinfo; ls /proc/00 /proc/01;"
        "umount /proc/cpuinfo >/dev/null || echo no"
    )
    told = inside(script, pid=pid, overlays=[(b"/proc/cpuinfo", b"mine\n"), (b"/proc/uptime", b"1 1\n")])
    assert [line.rpartition(": ")[2] for line in told[:2]] == ["Read-only file system"] * 2
    assert "mine" in told
    assert sum("No such file" in line for line in told) == 2
    assert told[-1] == "no"


def test_an_overlay_for_what_is_not_there_is_named(tree: Tree) -> None:
    files = [(b"/proc/cpuinfo", b""), (bytes(tree.root / "missing"), b"")]
    with new_request(["true"], overlays=files, **USER) as request, pytest.raises(SpawnError) as caught:
        spawn(request)
    assert (caught.value.step, caught.value.errno, caught.value.index) == ("overlay", errno.ENOENT, 1)
    assert caught.value.detail == str(tree.root / "missing")


def test_overlays_are_bounded() -> None:
    with new_request(["true"], overlays=[(b"/proc/cpuinfo", b"x" * (1 << 20) + b"x")], **USER) as request:
        with pytest.raises(ValueError, match="bytes"):
            spawn(request)
        request.overlays = [(b"/proc/cpuinfo", b"x")] * 65
        with pytest.raises(SpawnError) as caught:
            spawn(request)
        assert (caught.value.step, caught.value.errno) == ("overlay", errno.E2BIG)
        request.overlays = [(b"/proc/cpuinfo", b"x")] * 64
        spawn(request).guard.close()


@NAMESPACES
def test_the_host_name_is_the_sandboxs_own(*, pid: bool) -> None:
    before = socket.gethostname()
    assert inside("uname -n; cat /proc/sys/kernel/hostname", pid=pid, hostname=b"box-7") == ["box-7"] * 2
    assert socket.gethostname() == before


def test_a_host_name_needs_no_other_namespace_and_has_its_limit() -> None:
    assert inside("uname -n", hostname=b"h" * 64) == ["h" * 64]
    with new_request(["true"], hostname=b"h" * 65, **USER) as request, pytest.raises(SpawnError) as caught:
        spawn(request)
    assert (caught.value.step, caught.value.errno) == ("hostname", errno.EINVAL)


@NAMESPACES
def test_binds_show_trees_elsewhere_writable_or_not(tree: Tree, *, pid: bool) -> None:
    here, there = tree.root / "here", tree.root / "there"
    here.mkdir()
    there.mkdir()
    binds = [(bytes(tree.work), bytes(here), False), (bytes(tree.work), bytes(there), True)]
    told = inside(
        f"echo new > {here}/made; cat {there}/made; echo x > {there}/made; echo x > {tree.read}/data.txt",
        pid=pid,
        binds=binds,
        writable=[],
    )
    assert told[0] == "new"
    assert [line.rpartition(": ")[2] for line in told[1:]] == ["Read-only file system"] * 2
    assert (tree.work / "made").read_text() == "new\n"
    assert list(here.iterdir()) == []


def test_a_bind_that_fails_is_named(tree: Tree) -> None:
    for binds in ([(b"/missing", bytes(tree.work), True)], [(bytes(tree.work), b"/missing", True)]):
        with new_request(["true"], binds=binds, **USER) as request, pytest.raises(SpawnError) as caught:
            spawn(request)
        assert (caught.value.step, caught.value.errno) == ("bind", errno.ENOENT)
        assert "/missing" in caught.value.detail


@NAMESPACES
def test_nothing_outside_another_root_can_be_reached(tree: Tree, *, pid: bool) -> None:
    root = tree.root / "root"
    for name in ("usr", "proc", "tmp", "data"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    binds = [(b"/usr", b"/usr", True), (bytes(tree.work), b"/data", False)]
    (tree.work / "mine").write_text("mine\n")
    script = (
        f"ls /; cat /data/mine; ls {tree.root} /../../../../../.. ; cd /data && cd ../../../../../.. && ls;"
        "while read a b c d e f; do echo mount $e; done < /proc/self/mountinfo"
    )
    fields: dict[str, Any] = {"binds": binds, "root": bytes(root), "cwd": b"/"}
    told = inside(script if pid else script.partition(";while")[0], pid=pid, writable=[], **fields)
    assert told[: len(list(root.iterdir()))] == sorted(path.name for path in root.iterdir())
    assert "mine" in told
    assert any("No such file" in line for line in told)
    assert "etc" not in told
    assert "root" not in told
    assert all(str(tree.root) not in line for line in told if line.startswith("mount"))
    if pid:
        assert {"mount /", "mount /usr", "mount /data", "mount /proc"} <= set(told)
    assert (root / "usr").is_dir()


def test_a_root_that_is_not_there_is_named(tree: Tree) -> None:
    with (
        new_request(["true"], root=bytes(tree.root / "missing"), **USER) as request,
        pytest.raises(SpawnError) as caught,
    ):
        spawn(request)
    assert (caught.value.step, caught.value.errno) == ("root", errno.ENOENT)
    assert caught.value.detail == str(tree.root / "missing")


def confined(script: str, host_rules: list[bytes], rules: list[bytes], **fields: Any) -> list[str]:
    """What the script prints in a ruleset with rules of the host's and rules added in the finished view."""
    every = READ_FILE | READ_DIR | EXECUTE
    ruleset = landlock.create_ruleset(every, 0, 0)
    try:
        landlock.add_paths(ruleset, [(path, every | landlock.OPTIONAL) for path in [*SHELL, *host_rules]])
        added = [(path, every) for path in rules]
        return inside(script, ruleset=ruleset, rules=added, **{"scoped": False, **fields})
    finally:
        os.close(ruleset)


@BOTH
def test_a_rule_of_the_hosts_does_not_reach_the_own_proc_and_an_added_one_does(flags: int) -> None:
    script = "head -1 /proc/self/status; head -1 /proc/version"
    assert confined(script, [b"/proc"], [])[0].startswith("Name"), "control: without the namespace it does"
    assert all("Permission denied" in line for line in confined(script, [b"/proc"], [], pid=True, flags=flags))
    told = confined(script, [], [b"/proc"], pid=True, flags=flags)
    assert [line.split()[0] for line in told] == ["Name:", "Linux"]


@NAMESPACES
def test_a_rule_for_a_covered_file_is_added_in_the_view(tree: Tree, *, pid: bool) -> None:
    secret, covered = tree.root / "other", tree.root / "covered"
    secret.write_text("secret\n")
    covered.write_text("the host's\n")
    files = [(bytes(covered), b"generated\n")]
    script = f"cat {covered}; cat {secret}"
    told = confined(script, [bytes(covered)], [], pid=pid, overlays=files)
    assert [line.rpartition(": ")[2] for line in told] == ["Permission denied"] * 2
    told = confined(script, [], [bytes(covered)], pid=pid, overlays=files)
    assert told[0] == "generated"
    assert told[1].endswith("Permission denied")


def test_a_rule_that_cannot_be_added_is_named(tree: Tree) -> None:
    ruleset = landlock.create_ruleset(READ_FILE, 0, 0)
    try:
        request = SpawnRequest([b"true"], [b"/bin/true"])
        request.ruleset = ruleset
        request.rules = [(bytes(tree.work), READ_FILE), (bytes(tree.root / "missing"), READ_FILE)]
        with pytest.raises(SpawnError) as caught:
            spawn(request)
        assert (caught.value.step, caught.value.errno, caught.value.index) == ("rule", errno.ENOENT, 1)
        assert caught.value.detail == str(tree.root / "missing")
        request.rules = [(bytes(tree.root / "missing"), READ_FILE | landlock.OPTIONAL)]
        with pytest.raises(SpawnError, match="Permission denied"):
            spawn(request)
    finally:
        os.close(ruleset)


@NAMESPACES
def test_a_branch_takes_the_writes_and_the_tree_stays(tree: Tree, tmp_path: Path, *, pid: bool) -> None:
    lower, upper, work = (tmp_path / name for name in ("lower", "upper", "work"))
    for folder in (lower, upper, work):
        folder.mkdir()
    (lower / "old").write_text("old\n")
    options = f"userxattr,lowerdir={lower},upperdir={upper},workdir={work}"
    script = f"cd {lower}; cat old; echo new > old; echo x > added; cat old; echo y > {tree.read}/x; ls"
    told = inside(script, pid=pid, branch=(bytes(lower), options.encode()), writable=[bytes(lower)])
    assert told[:2] == ["old", "new"]
    assert "Read-only file system" in told[2]
    assert told[3:] == ["added", "old"]
    assert (lower / "old").read_text() == "old\n"
    assert os.listdir(lower) == ["old"]
    assert (upper / "old").read_text() == "new\n"


def test_a_branch_that_cannot_be_mounted_is_named(tmp_path: Path) -> None:
    branch = (bytes(tmp_path), b"lowerdir=/no/such")
    with new_request(["true"], branch=branch, **USER) as request, pytest.raises(SpawnError) as caught:
        spawn(request)
    assert (caught.value.step, caught.value.detail) == ("branch", str(tmp_path))
