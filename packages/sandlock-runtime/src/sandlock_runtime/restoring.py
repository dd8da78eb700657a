"""Restoring a checkpoint in a sandbox: the sandbox is there first, and the processes come to life inside it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from sandlock_checkpoint import FileIdentity, Ids, ImageError, RestoreError, Unsupported, load, restore
from sandlock_checkpoint.open_files import ExternalFile, NamedFile
from sandlock_policy.errors import SandlockError
from sandlock_policy.model import Policy
from sandlock_policy.wider import wider_fields
from sandlock_runtime.features import host_features
from sandlock_runtime.instead import Instead
from sandlock_runtime.masking import without_values
from sandlock_runtime.prepare import make_context, plan_for
from sandlock_runtime.restored_branch import denied_paths
from sandlock_sys import pidfd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock_checkpoint import Checkpoint
    from sandlock_runtime.life import Life

__all__ = ["branch_folder", "check_policy", "restore_image", "usual_ids"]


def restore_image(
    image: str | os.PathLike[str] | Checkpoint,
    policy: Policy,
    launch: Callable[[list[bytes], Instead], Life],
    *,
    allow: frozenset[str] = frozenset(),
    ids: Ids | None = None,
) -> tuple[Life, tuple[Unsupported, ...]]:
    """Bring the processes of a checkpoint to life in a sandbox.

    Arguments:
        image: the directory of an image, or a checkpoint, which stays the caller's to close.
        policy: of the sandbox.
        launch: launches that sandbox for a command. Should this raise, the caller ends what was launched.
        allow: names or kinds of what may be lacking.
        ids: which process and thread ids they have; see `usual_ids`.

    Returns:
        The life, which the caller must finish, and what was not restored.

    Raises:
        ImageError: the image is not what it must be.
        RestoreError: it cannot be restored.
        PolicyError, ConfinementError, ...: as a launch.

    """
    with ExitStack() as undo:
        checkpoint = undo.enter_context(load(image)) if isinstance(image, str | os.PathLike) else image
        check_policy(checkpoint, policy, allow)
        folder = branch_folder(checkpoint, policy)
        if folder is not None:
            checkpoint = _copied(checkpoint, os.fsencode(folder))
        job = _Job(checkpoint, launch, denied_paths(policy) if folder is not None else ())
        try:
            done = restore(
                checkpoint, job.spawn, allow=allow, descriptors=job.streams, ready=job.ready,
                ids=ids if ids is not None else usual_ids(checkpoint, allow),
            )  # fmt: skip
        except RestoreError as error:
            if job.refusal is not None:  # what the launch said, not what the restore made of it
                raise job.refusal from error.__cause__
            raise
        finally:
            for fd in job.streams.values():
                os.close(fd)
    assert job.life is not None  # noqa: S101  # a restore that worked has spawned
    return job.life, done.skipped


def check_policy(checkpoint: Checkpoint, policy: Policy, allowed: frozenset[str]) -> None:
    """Refuse a policy that lets a program do what it may not have done when it was saved.

    Raises:
        RestoreError: `skipped` lists the fields; "policy" among `allowed` takes them on.

    """
    if "policy" in allowed or not checkpoint.policy:
        return
    try:
        saved = Policy.from_toml(checkpoint.policy)
    except SandlockError as error:
        raise ImageError("policy.json", "text", f"is no policy: {error}") from error
    wider = tuple(
        Unsupported(f"policy:{field}", "policy", f"{field} is wider than when it was saved")
        for field in wider_fields(saved, without_values(policy))
    )
    left = [one for one in wider if one.name not in allowed]
    if left:
        words = ", ".join(one.name.partition(":")[2] for one in left)
        raise RestoreError("policy", f"it was saved under a stricter one; wider is {words}", tuple(left))


def usual_ids(checkpoint: Checkpoint, allowed: frozenset[str]) -> Ids:
    """Return whether the ids matter: a shell that waits for a child by another id than it has gets no status."""
    return Ids.KEEP if len(checkpoint.processes) > 1 and "id" not in allowed else Ids.PREFER


def branch_folder(checkpoint: Checkpoint, policy: Policy) -> str | None:
    """Return the folder that the policy's branch will cover, where the checkpoint has a snapshot for it.

    Raises:
        RestoreError: there is a snapshot and no branch that the kernel makes: the writes in it would be lost.

    """
    if checkpoint.cow is None:
        return None
    if policy.workdir is None:
        raise RestoreError("branch", "it was saved with a copy-on-write branch: name the folder (workdir)")
    context, _ = make_context(policy, None)
    view = plan_for(policy, context, host_features()).view
    if view is None or view.branch is None:
        raise RestoreError("branch", "a copy-on-write branch is restored only where namespaces show it")
    return view.branch


def _copied(checkpoint: Checkpoint, workdir: bytes) -> Checkpoint:
    """Return the checkpoint, its files below `workdir` known by size and time: the branch's snapshot has copies."""

    def known(identity: FileIdentity) -> FileIdentity:
        if identity.path != workdir and not identity.path.startswith(workdir.rstrip(b"/") + b"/"):
            return identity
        return replace(identity, device=0, inode=0)

    files = [
        replace(file, target=replace(file.target, identity=known(file.target.identity)))
        if isinstance(file.target, NamedFile)
        else file
        for file in checkpoint.files
    ]
    processes = [
        replace(
            process,
            mappings=tuple(
                area if area.file is None else replace(area, file=known(area.file)) for area in process.mappings
            ),
        )
        for process in checkpoint.processes
    ]
    return replace(checkpoint, files=tuple(files), processes=tuple(processes))


class _Job:
    """One restore.

    Attributes:
        checkpoint: what is restored.
        life: the sandbox, once it is there.
        refusal: why there is none.
        denied: paths on the host that the branch's snapshot may not change.
        streams: number of a standard stream that the image lacks -> our descriptor for it, set once there is a sandbox.

    """

    def __init__(
        self, checkpoint: Checkpoint, launch: Callable[[list[bytes], Instead], Life], denied: Sequence[str]
    ) -> None:
        self.checkpoint = checkpoint
        self.denied = denied
        self._launch = launch
        self.life: Life | None = None
        self.refusal: Exception | None = None
        self.streams = {
            row.number: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            for row in checkpoint.processes[0].descriptors
            if row.number <= 2 and isinstance(checkpoint.files[row.file].target, ExternalFile)
        }

    def spawn(self, program: int, channel: int) -> int:
        """Launch the sandbox with the stub in it."""
        try:
            command = [self.checkpoint.processes[0].exe]
            self.life = self._launch(command, Instead(program, channel, self.checkpoint.cow, self.denied))
        except Exception as error:
            self.refusal = error
            raise
        if self.life.service is not None:
            self.life.service.begin_restore()
        self._take_streams(self.life.pid)
        return self.life.pid

    def _take_streams(self, pid: int) -> None:
        """Give the restored process the very streams that the launch has made for it.

        Safety: the launch opens /dev/null inside, below the read-only mounts. Ours would let it change the host's node.
        """
        child = pidfd.open_pidfd(pid)
        try:
            for number, place in self.streams.items():
                taken = pidfd.getfd(child, number)
                os.dup2(taken, place, inheritable=False)
                os.close(taken)
        finally:
            os.close(child)

    def ready(self, pids: Sequence[int]) -> None:
        """Let the supervisor look at the new images, as it does at every other before it runs."""
        if self.life is not None and self.life.service is not None:
            self.life.service.end_restore(pids)
