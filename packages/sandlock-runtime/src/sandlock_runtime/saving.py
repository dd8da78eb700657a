"""The part of `Sandbox` that saves what runs in it, and brings it back. LEAN."""

from __future__ import annotations

from sandlock_runtime.streams import INHERIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from sandlock_checkpoint import Checkpoint, Ids, Tracker, Unsupported
    from sandlock_policy import Policy
    from sandlock_runtime.instead import Instead
    from sandlock_runtime.life import Life
    from sandlock_runtime.process import Process
    from sandlock_runtime.streams import Stream

__all__ = ["Saving"]


class Saving:
    """Checkpoint and restore; the base of `Sandbox`."""

    policy: Policy
    _skipped: tuple[Unsupported, ...] = ()
    _life: Life | None
    _live: Callable[[], Life]
    _launch: Callable[..., Life]
    _limit: Callable[[Life], None]
    _hold: Callable[[Life], Process]
    _end: Callable[[Life], None]

    def checkpoint(
        self,
        save_fn: Callable[[], bytes] | None = None,
        *,
        allow: Iterable[str] = (),
        leave: str = "running",
        name: str = "",
        tracker: Tracker | None = None,
    ) -> Checkpoint:
        """Freeze every process of the sandbox and return what they are: `with sandbox.checkpoint() as c: c.save(path)`.

        They stand still until the checkpoint is saved or closed, by the same thread. Standard streams that lead outside
        are left out: a restore gives others. The copy-on-write branch is saved with it.

        Arguments:
            save_fn: called while all stand still; its bytes are kept as `Checkpoint.app_state`.
            allow: names or kinds (`Unsupported.name`, `.kind`) of what may be left out.
            leave: what becomes of the processes afterwards: "running", "stopped" or "killed".
            name: put into the checkpoint.
            tracker: has the kernel note what is written until its next checkpoint, which then reads and writes only
                that. The sandbox's filter stands in the way of all but root, unless the sandbox was made `trackable`:
                else everything is compared, and `Tracker.untracked` says why.

        Raises:
            NotRunningError: nothing runs.
            CaptureError: it cannot be captured; `unsupported` lists all that stands against it. It runs on.

        """
        from sandlock_runtime.capturing import checkpoint_life  # lazy: few runs are checkpointed

        return checkpoint_life(self._live(), self.policy, save_fn, allow=allow, leave=leave, name=name, tracker=tracker)

    def restore(
        self,
        image: str | os.PathLike[str] | Checkpoint,
        stdin: Stream = INHERIT,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        *,
        allow: Iterable[str] = (),
        ids: Ids | None = None,
    ) -> Process:
        """Bring a checkpoint to life in this sandbox, and return at once; as often as you like.

        This sandbox's policy confines it before its first instruction, whatever the image says; it must not be wider
        than the one that the image was saved under.

        Arguments:
            image: the directory of an image, or a checkpoint.
            stdin: instead of a standard input that led outside; one that was a file is that file again.
            stdout: likewise.
            stderr: likewise.
            allow: names or kinds of what the restored processes may lack (`restore_skipped` tells), and "policy" for a
                policy that is wider.
            ids: which process ids they have (`sandlock_checkpoint.Ids`); those they had, where that can be done.
                Several processes wait for each other by their ids, so without theirs they are refused, but for "id"
                among `allow`.

        Raises:
            ImageError: the image is not what it must be.
            RestoreError: it cannot be restored under this policy; `skipped` lists what would be lacking.
            PolicyError, ConfinementError, SandboxBusyError: as `popen`.

        """
        from sandlock_runtime.restoring import restore_image  # lazy: as above

        self._skipped = ()

        def launch(command: list[bytes], instead: Instead) -> Life:
            return self._launch(command, stdin, stdout, stderr, (), instead=instead)

        try:
            life, self._skipped = restore_image(image, self.policy, launch, allow=frozenset(allow), ids=ids)
        except BaseException:
            started = self._life
            if started is not None:
                started.kill()
                self._end(started)
            raise
        self._limit(life)
        return self._hold(life)

    def restore_interactive(self, image: str | os.PathLike[str] | Checkpoint, *, allow: Iterable[str] = ()) -> int:
        """Restore with the caller's own streams, wait for the end, and return the exit status; 128 + N for signal N."""
        with self.restore(image, allow=allow) as process:
            result = process.wait()
        return result.exit_code if result.signal is None else 128 + result.signal

    @property
    def restore_skipped(self) -> tuple[Unsupported, ...]:
        """What the latest restore could not bring back, and was told that it may."""
        return self._skipped
