"""A branch where the kernel mounts no overlay."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from runtime_lab import OLD_LANDLOCK, box

from sandlock_policy.features import HostFeatures, features_of_abi
from sandlock_runtime import ConfinementError, host_features, override
from sandlock_runtime.starting import start
from sandlock_sys.spawn import SpawnError

if TYPE_CHECKING:
    from sandlock_sys.spawn import Spawned, SpawnRequest
    from sandlock_testkit.tree import Tree


@pytest.mark.needs("pid_namespace")
@pytest.mark.needs("landlock", level=6)
@pytest.mark.needs("seccomp", level=2)
def test_where_an_old_landlock_needs_namespaces_the_folder_is_named_and_not_the_host(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_overlay(request: SpawnRequest) -> Spawned:
        assert request.branch is not None, "nothing is started without what holds signals"
        raise SpawnError("branch", "mount", errno.EINVAL, str(tree.work))

    monkeypatch.setattr("sandlock_runtime.launch.start", no_overlay)
    old, real = features_of_abi(2), host_features()
    masks = (old.landlock_fs, old.landlock_net, old.landlock_scopes)
    like_6_1 = HostFeatures(2, *masks, real.user_namespace, real.mount_namespace, False, real.served)
    with override(like_6_1), pytest.raises(ConfinementError, match="--fs-storage") as caught:
        box(workdir=str(tree.work), fs_writable=[str(tree.work)]).run(["true"])
    assert (caught.value.step, str(tree.work) in str(caught.value)) == ("branch", True)


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
    sandbox = box(workdir=str(tree.work), fs_writable=[str(tree.work)], on_exit="abort", allow_degraded=OLD_LANDLOCK)
    for _ in range(2):  # the folder is tried again: of the host it says nothing
        result = sandbox.run(["sh", "-c", f"echo inside >{tree.work}/kept"])
        assert (result.success, [change.path for change in result.changes]) == (True, ["kept"]), result
    assert (asked, (tree.work / "kept").read_text()) == ([True, False] * 2, "before")
    with pytest.raises(ConfinementError, match="branch"):
        box(workdir=str(tree.work), fs_writable=[str(tree.work)], namespaces="require").run(["true"])
