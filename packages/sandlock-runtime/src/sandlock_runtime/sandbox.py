"""`Sandbox`: a policy, and the confined programs that run under it."""

from __future__ import annotations

from _thread import allocate_lock

from sandlock_policy.model import Policy
from sandlock_runtime.deferred import Deferred
from sandlock_runtime.errors import NotRunningError, SandboxBusyError
from sandlock_runtime.forking import Forking
from sandlock_runtime.launch import launch
from sandlock_runtime.process import Process
from sandlock_runtime.saving import Saving
from sandlock_runtime.streams import DEVNULL, INHERIT, PIPE
from sandlock_sys.spawn import SpawnError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, Self, Unpack

    from sandlock_notif import Event
    from sandlock_notif.handlers.callback import PolicyFunction
    from sandlock_notif.handlers.user import UserHandler
    from sandlock_policy import Protection
    from sandlock_policy.inputs import PolicyInputs
    from sandlock_runtime.aio import AsyncProcess
    from sandlock_runtime.branching import RunBranch
    from sandlock_runtime.instead import Instead
    from sandlock_runtime.life import Life
    from sandlock_runtime.pipeline import Stage
    from sandlock_runtime.prepare import Command
    from sandlock_runtime.result import Result
    from sandlock_runtime.streams import Stream

__all__ = ["Sandbox"]

_SIGSTOP, _SIGCONT = 19, 18  # the same numbers on every architecture here
MAX_OUTPUT = 256 << 20


class Sandbox(Deferred, Forking, Saving):
    """Confined programs under one policy. One lives at a time; use several objects for several at once.

    Arguments:
        policy: what is allowed; nothing where it is None.
        policy_fn: `(event, context) -> verdict`, plain or async: asked before files are opened, programs executed and
            peers reached. It runs in a thread of its own; a late, raising or nonsensical one denies.
        handlers: `(system call name or number, handler)`: asked after the built-in ones, in order.
        audit: told every event of the supervisor and of the HTTP proxy (`sandlock_notif.Event`), in their threads and
            one at a time, so it must not wait. A run that the kernel alone confines has none.
        init_fn: called once by `fork`, in the template.
        work_fn: called by `fork` in each clone, with its number.
        trackable: checkpoints may be given a tracker, also by who is not root; takes a supervisor.
        fields: fields of `Policy`, instead of the policy's own. They can be read as attributes.

    Raises:
        PolicyError: the fields contradict the grammar or each other.

    Leaving the `with` block kills the whole tree and frees everything; a branch that is still pending is dropped.
    """

    policy: Policy

    def __init__(
        self,
        policy: Policy | None = None,
        /,
        *,
        policy_fn: PolicyFunction | None = None,
        handlers: Sequence[tuple[str | int, UserHandler]] = (),
        audit: Callable[[Event], None] | None = None,
        init_fn: Callable[[], object] | None = None,
        work_fn: Callable[[int], object] | None = None,
        trackable: bool = False,
        **fields: Unpack[PolicyInputs],
    ) -> None:
        base = policy if policy is not None else Policy()
        self.policy = base.replace(**fields) if fields else base
        self._hooks = None
        if policy_fn is not None or handlers or audit is not None or trackable:
            from sandlock_runtime.hooks import hooks_of  # lazy: most sandboxes have none

            self._hooks = hooks_of(policy_fn, tuple(handlers), audit, trackable=trackable)
        self._init_fn, self._work_fn = init_fn, work_fn
        self._branch: RunBranch | None = None
        self._lock = allocate_lock()
        self._life: Life | None = None
        self._process: Process | None = None
        self._protections: tuple[Protection, ...] = ()

    def __getattr__(self, name: str) -> Any:
        """Read a field of the policy."""
        if name == "policy":  # not set: __init__ raised
            raise AttributeError(name)
        try:
            return getattr(self.policy, name)
        except AttributeError:
            raise AttributeError(f"neither Sandbox nor Policy has {name!r}") from None

    def run(
        self,
        cmd: Command,
        timeout: float | None = None,
        *,
        stdin: Stream = DEVNULL,
        input: bytes | None = None,  # noqa: A002  # the name that subprocess.run gave it
        max_output: int | None = MAX_OUTPUT,
        pass_fds: Sequence[int] = (),
    ) -> Result:
        """Run `cmd`, wait until nothing of it is left, and return what became of it.

        Arguments:
            cmd: program and arguments; the program is looked for in PATH.
            timeout: seconds until everyone inside gets SIGTERM, and `grace` seconds later SIGKILL; the policy's when
                None.
            stdin: a file, an fd, or DEVNULL; INHERIT for the caller's.
            input: bytes for its standard input, instead of `stdin`.
            max_output: bytes to keep of stdout and of stderr each; the rest is counted and dropped. None keeps all,
                so the program decides how much of the caller's memory it takes.
            pass_fds: fds that stay open inside, at their numbers.

        Raises:
            PolicyError, CommandNotFoundError, CommandNotRunnableError, ConfinementError: nothing was started.
            SandboxBusyError: another program of this object is alive.

        """
        if input is not None and stdin != DEVNULL:
            raise ValueError("give either stdin or input")
        if max_output is not None and max_output < 0:
            raise ValueError(f"max_output is a number of bytes, not {max_output}")
        source: Stream = PIPE if input is not None else stdin
        life = self._launch(cmd, source, PIPE, PIPE, pass_fds)
        try:
            life.attach(input or b"", max_output)
            policy = self.policy
            return life.run(policy.timeout if timeout is None else timeout, policy.grace)
        except BaseException:
            life.kill()
            raise
        finally:
            self._end(life)

    def popen(
        self,
        cmd: Command,
        stdin: Stream = INHERIT,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        *,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start `cmd` and return at once; streams are PIPE, DEVNULL, STDOUT, INHERIT, files or fds.

        Raises as `run` does. The policy's `timeout` bounds `run` and `wait`, not a process that the caller holds.
        """
        return self._hold(self._launch(cmd, stdin, stdout, stderr, pass_fds))

    def run_interactive(self, cmd: Command) -> int:
        """Run `cmd` at a terminal of its own, with job control, and return its exit code, or 128 + its signal.

        The caller's terminal passes keys, output and its size on meanwhile, and gets its modes back afterwards.
        """
        from sandlock_runtime.tty import Terminal, with_terminal  # lazy: for those who use it

        with Terminal() as terminal:
            life = self._launch(cmd, terminal, terminal, terminal, (), policy=with_terminal(self.policy))
            try:
                result = terminal.run(life, self.policy)
            except BaseException:
                life.kill()
                raise
            finally:
                self._end(life)
        return result.exit_code if result.signal is None else 128 + result.signal

    async def arun(
        self,
        cmd: Command,
        timeout: float | None = None,  # noqa: ASYNC109  # as in run
        *,
        input: bytes | None = None,  # noqa: A002  # as in run
        max_output: int | None = MAX_OUTPUT,
    ) -> Result:
        """As `run`, for asyncio: the caller's loop goes on meanwhile, and a cancelled wait kills the whole tree."""
        from sandlock_runtime.aio import arun  # lazy: asyncio is for those who use it

        policy = self.policy
        limit = policy.timeout if timeout is None else timeout
        return await arun(self._starter(cmd), limit, policy.grace, input, max_output)

    async def aspawn(
        self, cmd: Command, stdin: Stream = INHERIT, stdout: Stream = INHERIT, stderr: Stream = INHERIT
    ) -> AsyncProcess:
        """As `popen`, for asyncio: pipes are asyncio streams."""
        from sandlock_runtime.aio import aspawn  # lazy: as above

        return await aspawn(self._starter(cmd), stdin, stdout, stderr)

    def _starter(self, cmd: Command) -> Callable[[Stream, Stream, Stream], tuple[Process, Life]]:
        def start(stdin: Stream, stdout: Stream, stderr: Stream) -> tuple[Process, Life]:
            life = self._launch(cmd, stdin, stdout, stderr, ())
            return self._hold(life), life

        return start

    def cmd(self, args: Command) -> Stage:
        """Return `args` as a stage of a pipeline: `(a.cmd([...]) | b.cmd([...])).run()`; nothing is started yet."""
        from sandlock_runtime.pipeline import Stage  # lazy: threads are for those who use it

        return Stage(self, args, self._launch, self._end)

    def create(self, cmd: Command) -> None:
        """Set `cmd` up, confined, with the caller's streams, and stop before it executes; `start` lets it go on."""
        self._hold(self._launch(cmd, INHERIT, INHERIT, INHERIT, (), park=True))

    def start(self) -> None:
        """Let the program of `create` execute.

        Raises:
            CommandNotFoundError, CommandNotRunnableError: it cannot be executed.
            NotRunningError: nothing was created.

        """
        life = self._live()
        try:
            life.go()
        except BaseException as error:
            life.kill()
            self._end(life)
            if isinstance(error, SpawnError):
                from sandlock_runtime.failure import explain_failure  # lazy: good launches never need it

                raise explain_failure(error, life.program, life.plan) from error
            raise

    def spawn(self, cmd: Command) -> None:
        """Start `cmd` with the caller's streams; `wait` for it later."""
        self.popen(cmd)

    def wait(self) -> Result:
        """Wait for the program of `spawn`, `start` or `popen`, within the policy's timeout, and return its result.

        Output that nobody took from a pipe is in the result. Called again, it returns the same.
        """
        process, life = self._process, self._life
        if process is None:
            raise NotRunningError("nothing was started: spawn(cmd) first")
        if life is not None:
            life.attach()
            life.run(self.policy.timeout, self.policy.grace)
        return process.wait()

    def kill(self) -> None:
        """Kill every process of the sandbox, daemons included; no error when there is none. As `Process.kill`."""
        life = self._life
        if life is not None:
            life.kill()

    def send_signal(self, number: int) -> None:
        """Send signal `number` to the program; NotRunningError when there is none."""
        self._live().signal(number)

    def pause(self) -> None:
        """Stop every process of the sandbox (SIGSTOP); NotRunningError when there is none."""
        self._live().signal(_SIGSTOP, everyone=True)

    def resume(self) -> None:
        """Let every stopped process of the sandbox go on (SIGCONT); NotRunningError when there is none."""
        self._live().signal(_SIGCONT, everyone=True)

    def ports(self) -> dict[int, int]:
        """Return the ports that the program has bound now -> the real ones, which differ where `port_remap` moved them.

        UDP ports that are bound, and TCP ports where somebody listens. The kernel alone does not tell: under a policy
        that needs no supervisor there are none.
        """
        life = self._life
        return life.ports() if life is not None else {}

    @property
    def pid(self) -> int | None:
        """Process id of the program, or None."""
        life = self._life
        return life.pid if life is not None else None

    @property
    def is_running(self) -> bool:
        """Whether a process of the sandbox is alive."""
        life = self._life
        return life is not None and not life.ended

    @property
    def protections(self) -> tuple[Protection, ...]:
        """What was enforced at the latest launch, and by which layer; empty before the first."""
        return self._protections

    def __enter__(self) -> Self:
        """Return the sandbox itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what is left and free everything."""
        process, life = self._process, self._life
        if process is not None:
            process.close()
        elif life is not None:
            life.close()
            self._end(life)
        if self._branch is not None and self._branch.pending:
            self._branch.drop()

    def _launch(
        self,
        cmd: Command,
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
        keep: Sequence[int],
        *,
        park: bool = False,
        policy: Policy | None = None,
        instead: Instead | None = None,
    ) -> Life:
        if not self._lock.acquire(blocking=False):
            raise SandboxBusyError("a program of this Sandbox is alive: wait for it, or use another Sandbox")
        life = None
        self._process = None
        if self._branch is not None and self._branch.pending:
            self._lock.release()
            raise SandboxBusyError("a branch is pending: commit() or abort() it first")
        self._branch = None
        policy = self.policy if policy is None else policy
        start = launch
        if policy.name is not None:
            from sandlock_runtime.registration import launch_registered  # lazy: few runs have a name

            start = launch_registered
        try:
            life, plan = start(
                policy, cmd, stdin=stdin, stdout=stdout, stderr=stderr, keep=keep, park=park, hooks=self._hooks,
                instead=instead,
            )  # fmt: skip
            self._life = life
            self._branch = life.branch
            self._protections = plan.protections
            if instead is None:
                self._limit(life)
        except BaseException:
            if life is None:
                self._lock.release()
            else:
                life.kill()
                self._end(life)
            raise
        return life

    def _limit(self, life: Life) -> None:
        if life.plan.max_cpu is not None:
            from sandlock_runtime.throttle import throttle  # lazy: costs a thread, paid by who asks for it

            throttle(life, life.plan.max_cpu)

    def _hold(self, life: Life) -> Process:
        self._process = Process(life, lambda: self._forget(life))
        return self._process

    def _end(self, life: Life) -> None:
        try:
            life.finish()
        finally:
            self._forget(life)

    def _live(self) -> Life:
        life = self._life
        if life is None:
            raise NotRunningError("no program of this Sandbox is running")
        return life

    def _forget(self, life: Life) -> None:
        """Be free for the next program, if `life` is still the one that keeps this object busy."""
        if self._life is life:
            self._life = None
            self._lock.release()
