"""The read-only tree: in a mount namespace everything but the granted paths is read-only, by path and by fd."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from launch_lab import launched, new_request, output_of

from sandlock_sys.spawn import NO_THP, SpawnError, spawn

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

pytestmark = [pytest.mark.usefixtures("leaks"), pytest.mark.needs("mount_namespace")]

BOTH = pytest.mark.parametrize("flags", [0, NO_THP], ids=["shared-memory", "own-memory"])


def mounts(*writable: Path, user: bool = os.geteuid() != 0) -> dict[str, Any]:
    return {
        "writable": [bytes(path) for path in writable],
        "id_map": (os.getuid(), os.getgid()) if user else None,
    }


def refusals(*commands: str, **fields: Any) -> list[str]:
    """For each shell command "ok", or the last words of its error."""
    script = "\n".join(f"( {command} ) 2>&1 && echo ok" for command in commands)
    return [
        line.rpartition(": ")[2] for line in output_of(["sh", "-c", f"{script}\ntrue"], **fields).decode().splitlines()
    ]


@BOTH
def test_metadata_and_content_outside_the_grants_are_read_only(flags: int, tree: Tree) -> None:
    (tree.work / "mine").touch()
    outside = tree.read / "data.txt"
    told = refusals(
        f"chmod 700 {outside}",
        f"touch {outside}",
        f"echo x > {outside}",
        f"mkdir {tree.read}/new",
        f"exec 3< {outside}; chmod 700 /proc/self/fd/3",
        f"chmod 700 {tree.work}/mine",
        f"touch {tree.work}/new",
        f"exec 3< {tree.work}/mine; chmod 711 /proc/self/fd/3",
        flags=flags,
        **mounts(tree.work),
    )
    assert told == ["Read-only file system"] * 5 + ["ok"] * 3
    assert outside.read_text() == tree.readable
    assert (tree.work / "mine").stat().st_mode & 0o777 == 0o711, "the grant is the host's own folder"
    assert (tree.work / "new").exists()


FCHMOD = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>
int main(int count, char **paths)
{
    for (int index = 1; index < count; index++) {
        int fd = open(paths[index], O_RDONLY);
        int results[] = {fchmod(fd, 0700) ? errno : 0, futimens(fd, 0) ? errno : 0,
                         fchown(fd, -1, getgid()) ? errno : 0, fsetxattr(fd, "user.x", "y", 1, 0) ? errno : 0};
        printf("%d %d %d %d\n", results[0], results[1], results[2], results[3]);
    }
    return 0;
}
"""


def test_ll_02_nothing_is_changed_through_a_read_only_fd(tree: Tree, compile_c: Any) -> None:
    (tree.work / "mine").touch()
    program = compile_c(FCHMOD)
    told = output_of([str(program), str(tree.read / "data.txt"), str(tree.work / "mine")], **mounts(tree.work))
    outside, inside = ([int(word) for word in line.split()] for line in told.splitlines())
    assert outside == [errno.EROFS] * 4
    assert inside[:3] == [0, 0, 0]
    assert inside[3] in {0, errno.EOPNOTSUPP}


def test_a_grant_may_be_a_link_a_file_or_inside_another(tree: Tree) -> None:
    link = tree.root / "link"
    link.symlink_to(tree.work)
    single = tree.read / "data.txt"
    (tree.work / "inner").mkdir()
    told = refusals(
        f"touch {tree.work}/a",
        f"touch {link}/b",
        f"chmod 644 {single}",
        f"touch {tree.work}/inner/c",
        f"touch {tree.read}/tool.sh",
        **mounts(link, single, tree.work / "inner"),
    )
    assert told == ["ok"] * 4 + ["Read-only file system"]
    assert {path.name for path in tree.work.iterdir()} == {"a", "b", "inner"}


def test_a_grant_of_the_root_leaves_everything_writable(tree: Tree) -> None:
    told = refusals(f"touch {tree.work}/a", f"chmod 600 {tree.read}/data.txt", **mounts(tree.work, Path("/")))
    assert told == ["ok", "ok"]


def test_the_working_directory_is_in_the_new_tree(tree: Tree) -> None:
    """A folder that was entered before the mounts would be the old one, where everything can be written."""
    told = refusals("touch here", f"touch {tree.work}/there", cwd=bytes(tree.read), **mounts(tree.work))
    assert told == ["Read-only file system", "ok"]


def test_the_hosts_mounts_are_as_they_were(tree: Tree) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with launched(["sleep", "60"], **mounts(tree.work)) as spawned:
        inside = Path(f"/proc/{spawned.pid}/mountinfo").read_text()
        assert Path("/proc/self/mountinfo").read_text() == before
        (tree.read / "written-by-the-host").touch()
    points = {line.split()[4]: line.split()[5].split(",")[0] for line in inside.splitlines()}
    assert points["/"] == "ro"
    assert points[str(tree.work)] == "rw"
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_missing_grant_is_named(tree: Tree) -> None:
    with (
        new_request(["true"], **mounts(tree.work, tree.root / "missing")) as request,
        pytest.raises(SpawnError) as caught,
    ):
        spawn(request)
    assert (caught.value.step, caught.value.errno, caught.value.index) == ("mount", errno.ENOENT, 1)
    assert caught.value.detail == str(tree.root / "missing")


def test_more_grants_than_there_is_room_for_are_refused(tree: Tree) -> None:
    with new_request(["true"], **mounts(*[tree.work] * 257)) as request, pytest.raises(SpawnError) as caught:
        spawn(request)
    assert (caught.value.step, caught.value.errno) == ("mount", errno.E2BIG)
    with new_request(["true"], **mounts(*[tree.work] * 256)) as request:
        spawn(request).guard.close()


@pytest.mark.needs("ordinary_user")
def test_the_user_is_the_same_inside_and_has_no_capability(tree: Tree) -> None:
    words = output_of(
        ["sh", "-c", "id -u; id -g; cat /proc/self/uid_map; grep Cap /proc/self/status"], **mounts(tree.work)
    )
    uid, gid, *rest = words.decode().split()
    assert (int(uid), int(gid)) == (os.getuid(), os.getgid())
    assert [int(word) for word in rest[:3]] == [os.getuid(), os.getuid(), 1]
    caps = dict(zip(rest[3::2], rest[4::2], strict=True))
    assert {name: int(caps[name], 16) for name in ("CapPrm:", "CapEff:", "CapInh:")} == {
        "CapPrm:": 0, "CapEff:": 0, "CapInh:": 0
    }  # fmt: skip


@pytest.mark.needs("ordinary_user")
def test_an_id_that_is_not_ours_cannot_be_mapped(tree: Tree) -> None:
    with new_request(["true"], writable=[bytes(tree.work)], id_map=(0, 0)) as request:
        request.id_map = (os.getuid() + 1, os.getgid())
        with pytest.raises(SpawnError) as caught:
            spawn(request)
    assert (caught.value.step, caught.value.errno) == ("id-map", errno.EPERM)


@pytest.mark.needs("ordinary_user")
def test_without_a_user_namespace_a_user_cannot_make_the_mounts(tree: Tree) -> None:
    with new_request(["true"], writable=[bytes(tree.work)]) as request, pytest.raises(SpawnError) as caught:
        spawn(request)
    assert (caught.value.step, caught.value.errno) == ("namespace", errno.EPERM)
