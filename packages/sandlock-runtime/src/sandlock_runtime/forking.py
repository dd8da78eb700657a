"""The part of a `Sandbox` that is about clones."""

from __future__ import annotations

from sandlock_runtime.errors import ForkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_policy import Policy
    from sandlock_runtime.clones import Clones
    from sandlock_runtime.life import Life
    from sandlock_runtime.prepare import Command
    from sandlock_runtime.result import Result

__all__ = ["Forking"]

_MAX_OUTPUT = 256 << 20


class Forking:
    """`fork` and `reduce`."""

    policy: Policy
    _init_fn: Callable[[], object] | None
    _work_fn: Callable[[int], object] | None
    _launch: Callable[..., Life]
    _end: Callable[[Life], None]
    run: Callable[..., Result]

    def fork(self, n: int, *, max_output: int | None = _MAX_OUTPUT) -> Clones:
        """Call `init_fn()` once in a confined interpreter, then `work_fn(i)` in `n` copy-on-write clones of it.

        All of them are one sandbox, under one set of limits. What `init_fn` loaded is shared until it is written to.
        Each clone has its number as argument and as CLONE_ID; what it prints is kept from the beginning on. The
        folders of `sys.path` are readable inside, so that the functions, which are pickled, can be imported.

        Arguments:
            n: how many clones.
            max_output: bytes to keep of each clone's standard output; the rest is counted and dropped.

        Raises:
            ForkError: the sandbox has no `work_fn`.
            SandlockError: as `run`.

        """
        if self._work_fn is None:
            raise ForkError("there is nothing for clones to do: Sandbox(..., init_fn=load, work_fn=work)")
        from sandlock_runtime.clones import fork  # lazy: for those who use it

        return fork(self._launch, self._end, self.policy, (self._init_fn, self._work_fn), n, max_output)

    def reduce(self, cmd: Command, clones: Clones, timeout: float | None = None) -> Result:
        """Wait for `clones`, then run `cmd` with what they printed, in the order of their numbers, as its input.

        Raises:
            ForkError: a clone did not succeed; `clones` of the exception has the numbers.

        """
        results = clones.wait(timeout)
        failed = tuple(one.clone for one in results if not one.success)
        if failed:
            raise ForkError(f"{len(failed)} of {len(results)} clones did not succeed: {failed}", failed)
        return self.run(cmd, timeout, input=b"".join(one.stdout for one in results))
