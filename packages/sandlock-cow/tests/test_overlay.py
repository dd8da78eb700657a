"""The upper layer is overlayfs's: what a kernel mount leaves there, a branch reads, shows and commits."""

from __future__ import annotations

import os
import subprocess

import pytest
from cow_lab import Lab, names, read, write

from sandlock_cow import Branch, BranchConflictError
from sandlock_testkit.needs import lacks

SCRIPT = """
mount -t overlay overlay -o "$1" "$2" && cd "$2" || exit 99
echo more >> file && rm other && rm -r directory && mkdir directory && echo fresh > directory/fresh
ln -s x y && chmod 700 .
"""


def in_a_mount(branch: Branch, lab: Lab, script: str = SCRIPT) -> None:
    """Run `script` over the branch, mounted by the kernel in namespaces of one's own."""
    target = lab.root / "merged"
    target.mkdir(exist_ok=True)
    done = subprocess.run(
        ["unshare", "-U", "-r", "-m", "sh", "-ec", script, "sh", branch.overlay_options(), str(target)],
        capture_output=True,
        check=False,
    )
    if done.returncode == 99:
        lacks("user_namespace", "this host lets no user namespace mount an overlay")
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("user_namespace")
def test_a_branch_reads_what_an_overlay_mount_wrote(lab: Lab) -> None:
    branch = lab.branch(backend="overlay")
    in_a_mount(branch, lab)
    path = branch.keep()
    again = lab.resume(path)
    assert again.backend == "overlay"
    assert read(again, b"file") == b"filemore\n"
    assert names(again, b"directory") == [b"fresh"]
    shown = {change.path: change.kind for change in again.changes()}
    assert shown == {
        "": "M", "directory/fresh": "A", "directory/inner": "D", "directory/inner/two": "D",
        "directory/linked too": "D", "directory/one": "D", "file": "M", "other": "D", "y": "A",
    }  # fmt: skip
    again.commit()
    assert sorted(os.listdir(lab.lower / "directory")) == ["fresh"]
    assert (lab.lower / "file").read_text() == "filemore\n"
    assert not (lab.lower / "other").exists()


@pytest.mark.needs("user_namespace")
def test_a_change_outside_is_a_conflict_for_an_overlay_too(lab: Lab) -> None:
    branch = lab.branch(backend="overlay")
    in_a_mount(branch, lab)
    (lab.lower / "directory" / "inner" / "precious").write_text("outside")
    before = lab.fingerprint()
    with pytest.raises(BranchConflictError):
        branch.commit()
    assert lab.fingerprint() == before


@pytest.mark.needs("user_namespace")
def test_the_kernel_mounts_what_a_branch_wrote(lab: Lab) -> None:
    branch = lab.branch()
    write(branch, b"file", b"served", os.O_TRUNC)
    branch.unlink(b"other")
    branch.rename(b"directory", b"moved")
    branch.mkdir(b"directory", 0o755)
    in_a_mount(
        branch,
        lab,
        'mount -t overlay overlay -o "$1" "$2" && cd "$2" || exit 99\n'
        'test "$(cat file)" = served && ! test -e other && test -z "$(ls directory)"\n'
        'test "$(cat moved/inner/two)" = two',
    )
