"""uid and gid: other names for the caller's own ids inside, and no right with them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sandlock import PolicyError, Sandbox

pytestmark = pytest.mark.needs("user_namespace")

SYSTEM = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
IDS = [(0, 0), (12345, None), (None, 777), (0xFFFF_FFFE, 1)]
VIEWS: dict[str, dict[str, Any]] = {
    "kernel": {},
    "writable": {"fs_writable": ["."]},
    "proc": {"fs_readable": [*SYSTEM, "/proc"]},
    "supervised": {"max_processes": 9, "max_memory": "1G"},
    "branch": {"workdir": ".", "on_exit": "abort"},
    "root": {"chroot": "/"},
    "named": {"name": "box"},
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("uid", "gid"), IDS)
def test_the_program_takes_them_for_its_own(view: str, uid: int | None, gid: int | None) -> None:
    fields = {"fs_readable": SYSTEM, "uid": uid, "gid": gid, **VIEWS[view]}
    script = "id -u; id -g; stat -L -c %u:%g /proc/self; stat -c %u /usr"
    result = Sandbox(**fields).run(["/bin/sh", "-c", script], timeout=30)
    inner = [str(own if given is None else given) for own, given in ((os.getuid(), uid), (os.getgid(), gid))]
    root_is = inner[0] if os.getuid() == 0 else "65534"  # overflowuid, proc_sys_kernel(5): nobody whom it could name
    assert result.stdout.decode().split() == [*inner, ":".join(inner), root_is], result


def test_what_it_makes_belongs_to_the_caller_outside() -> None:
    folder = os.path.realpath(os.environ.get("TMPDIR", "/tmp"))
    name = os.path.join(folder, f"made-{os.getpid()}")
    box = Sandbox(fs_readable=SYSTEM, fs_writable=[folder], uid=0, gid=0)
    try:
        made = box.run(["/bin/sh", "-c", f"echo x > {name} && stat -c %u:%g {name}"])
        assert made.stdout == b"0:0\n", made
        assert (os.stat(name).st_uid, os.stat(name).st_gid) == (os.getuid(), os.getgid())
    finally:
        os.unlink(name)


@pytest.mark.parametrize("view", ["kernel", "proc", "writable"])
def test_root_inside_is_no_root(view: str) -> None:
    """No capability, no other user's files, nothing of other processes: as with one's own id."""
    fields = {"fs_readable": [*SYSTEM, "/etc/shadow", "/proc"], **VIEWS[view]}
    fields["fs_readable"] = [*SYSTEM, "/etc/shadow", *(["/proc"] if view == "proc" else [])]
    script = """
head -c 0 /etc/shadow 2>&- && echo shadow
chown 1:1 /usr 2>&- && echo chown
chroot / true 2>&- && echo chroot
unshare -m true 2>&- && echo unshare
mount -t tmpfs none /usr 2>&- && echo mount
kill -0 $PPID 2>&- && test $PPID != 0 && echo kill
hostname other 2>&- && echo hostname
test -r /proc/self/status && grep CapEff /proc/self/status
echo end
"""
    result = Sandbox(**fields, uid=0, gid=0).run(["/bin/sh", "-c", script], timeout=30)
    allowed = [b"shadow"] if os.getuid() == 0 else []  # the file is root's, which the caller is
    caps = [b"CapEff:", b"0" * 16] if view == "proc" else []
    assert result.stdout.split() == [*allowed, *caps, b"end"], result


@pytest.mark.parametrize(
    "fields", [{"namespaces": "off"}, {"fs_denied": ["/etc/shadow"]}, {"deterministic_dirs": True}]
)
def test_where_it_cannot_be_shown_it_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as caught:
        Sandbox(fs_readable=SYSTEM, uid=0, **fields).run(["/bin/true"])
    assert {problem.field for problem in caught.value.problems} == {"program.uid"}
