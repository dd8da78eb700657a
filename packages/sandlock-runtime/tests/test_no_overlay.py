"""A branch where the kernel mounts no overlay."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from runtime_lab import box

from sandlock_runtime import ConfinementError
from sandlock_runtime.starting import start
from sandlock_sys.spawn import SpawnError

if TYPE_CHECKING:
    from sandlock_sys.spawn import Spawned, SpawnRequest
    from sandlock_testkit.tree import Tree


@pytest.mark.needs("mount_namespace")
@pytest.mark.needs("seccomp", level=2)
def test_where_no_overlay_can_be_mounted_the_branch_is_served(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every file system can have one, and whether it can is known when it is mounted."""
    asked = []

    def no_overlay(request: SpawnRequest) -> Spawned:
        asked.append(request.branch is not None)
        if request.branch is not None:
            raise SpawnError("branch", "mount", errno.EINVAL, str(tree.work))
        return start(request)

    monkeypatch.setattr("sandlock_runtime.launch.start", no_overlay)
    (tree.work / "kept").write_text("before")
    sandbox = box(workdir=str(tree.work), fs_writable=[str(tree.work)], on_exit="abort")
    for _ in range(2):  # the folder is tried again: of the host it says nothing
        result = sandbox.run(["sh", "-c", f"echo inside >{tree.work}/kept"])
        assert (result.success, [change.path for change in result.changes]) == (True, ["kept"]), result
    assert (asked, (tree.work / "kept").read_text()) == ([True, False] * 2, "before")
    with pytest.raises(ConfinementError, match="branch"):
        box(workdir=str(tree.work), fs_writable=[str(tree.work)], namespaces="require").run(["true"])
