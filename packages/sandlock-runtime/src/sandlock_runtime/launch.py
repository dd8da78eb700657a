"""From a policy and a command to a running, confined child."""

from __future__ import annotations

import os
import time
from errno import EACCES, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOSYS, ENOTDIR, EPERM, EUSERS
from fcntl import F_DUPFD_CLOEXEC, fcntl

from sandlock_policy.data.landlock import FS_REFER, NEVER
from sandlock_policy.errors import LayerMissingError
from sandlock_runtime.features import host_features, namespace_refused, without_namespaces
from sandlock_runtime.life import Life
from sandlock_runtime.passed import as_passed, unheld
from sandlock_runtime.prepare import Program, encode_env, make_context, parts_of, plan_for, prepare
from sandlock_runtime.scratch import make_scratch, name_scratch, remove_scratch, scratch_env
from sandlock_runtime.starting import start
from sandlock_runtime.streams import Streams, close_all
from sandlock_sys import landlock
from sandlock_sys.errors import SyscallError
from sandlock_sys.spawn import NO_ASLR, NO_THP, OWN_MEMORY, TERMINAL, SpawnError, SpawnRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_policy import HostFeatures, Plan, Policy
    from sandlock_policy.plan import Context
    from sandlock_runtime.branching import RunBranch
    from sandlock_runtime.hooks import Hooks
    from sandlock_runtime.instead import Instead
    from sandlock_runtime.prepare import Command, Parts
    from sandlock_runtime.served_view import ServedView
    from sandlock_runtime.service import Service
    from sandlock_runtime.streams import Stream
    from sandlock_runtime.web import Web
    from sandlock_sys.landlock import PathRules
    from sandlock_sys.spawn import Spawned

__all__ = ["child_ruleset", "launch", "make_context", "plan_for"]

# What a kernel, an LSM or a container profile answers where there are no namespaces (unshare(2), user_namespaces(7)).
_NAMESPACE_STEPS = ("namespace", "id-map", "clock", "mount", "hostname", "proc")
_NOT_HERE = (EPERM, EACCES, EINVAL, ENOSPC, ENOSYS, EUSERS)
_INNER_TMP = "/tmp"  # noqa: S108  # where a private temporary directory is shown in another root
_SCOPE_SIGNAL = 1 << 1  # LANDLOCK_SCOPE_SIGNAL, ABI 6, 6.12
_REFER_EVERYWHERE, _NO_RULES = landlock.PathRules([(b"/", FS_REFER)]), landlock.PathRules([])


def launch(
    policy: Policy,
    command: Command,
    *,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    keep: Sequence[int] = (),
    park: bool = False,
    hooks: Hooks | None = None,
    instead: Instead | None = None,
) -> tuple[Life, Plan]:
    """Start `command` under `policy`, with the caller's callback and handlers in `hooks`.

    With `instead` a restore begins in the sandbox that `command` would get.

    Returns:
        The life, which the caller must finish, and the plan that is enforced.

    Raises:
        PolicyError: the policy cannot be enforced, or names what does not exist.
        OciImageError: the policy's image cannot be used.
        CommandNotFoundError, CommandNotRunnableError: the command cannot be executed.
        ConfinementError: the kernel refused a step of the set-up.

    """
    started = time.monotonic()
    for fd in keep:
        os.fstat(fd)  # before anything is opened here: a number that is free now would become one of the launch's own
    if policy.image is not None:
        from sandlock_runtime.images.running import in_image  # lazy: most runs have no image

        policy, command = in_image(policy, command)
    features = host_features()
    hooked = hooks is not None and hooks.policy_fn is not None
    context, program, plan = prepare(policy, command, features, hooked=hooked)
    if instead is not None:
        program.candidates, keep = instead.candidates, instead.keep
    streams = Streams(stdin, stdout, stderr)
    start = _Start(policy, context, program, streams, keep, park, hooks, started, instead)
    try:
        try:
            life = start.served(plan, features)
        except SpawnError as error:
            found = _second_look(error, policy, context)
            if found is None:
                raise
            features = found
            plan = plan_for(policy, context, features)
            life = start.served(plan, features)
    except SpawnError as error:
        streams.close()
        from sandlock_runtime.failure import explain_failure  # lazy: good launches never need it

        raise explain_failure(error, program, plan) from error
    except BaseException:
        streams.close()
        raise
    streams.close_child()
    return life, plan


def _second_look(error: SpawnError, policy: Policy, context: Context) -> HostFeatures | None:
    """Return what the host has, as a launch that failed found it; None where it said nothing about that."""
    if policy.namespaces == "require":
        return None
    if error.step == "branch":  # no overlay over this folder; of others, and of the host, that says nothing
        features = without_namespaces()
        try:
            plan_for(policy, context, features)
        except LayerMissingError:  # an old Landlock: namespaces hold other things too, and the folder is what is wrong
            return None
        return features
    # A single path that cannot be mounted says nothing about the host: it is the caller's to hear of.
    one_path = error.step == "mount" and error.detail
    if one_path or error.step not in _NAMESPACE_STEPS or error.errno not in _NOT_HERE:
        return None
    # The host was not asked before: asking costs as much as a launch. Now it is known.
    return namespace_refused()


class _Start:
    """One launch: what does not change when it is tried again with another plan."""

    __slots__ = (
        "branch",
        "context",
        "hooks",
        "instead",
        "keep",
        "names",
        "park",
        "policy",
        "program",
        "shown",
        "started",
        "streams",
        "web",
    )

    def __init__(
        self,
        policy: Policy,
        context: Context,
        program: Program,
        streams: Streams,
        keep: Sequence[int],
        park: bool,
        hooks: Hooks | None,
        started: float,
        instead: Instead | None,
    ) -> None:
        self.policy = policy
        self.context = context
        self.program = program
        self.streams = streams
        self.keep = keep
        self.park = park
        self.hooks = hooks
        self.started = started
        self.instead = instead
        self.branch: RunBranch | None = None
        self.shown: ServedView | None = None
        self.web: Web | None = None
        self.names: dict[str, tuple[str, ...]] | None = None

    def served(self, plan: Plan, features: HostFeatures) -> Life:
        """Start the child, with a supervisor where something has to be served."""
        if self.instead is not None:
            plan = self.instead.adapt(plan)
        if not plan.needs_supervisor and (self.hooks is None or not self.hooks.served):
            return self.once(plan, features, None)
        from sandlock_runtime.own_proc import require_own_proc  # lazy, as the next
        from sandlock_runtime.service import Service  # lazy: asyncio costs many launches to import

        require_own_proc()
        for _ in range(2):
            if plan.served_view is not None:
                from sandlock_runtime.served_view import ServedView  # lazy: most runs see the machine as it is

                self.shown = ServedView(self.policy, plan, self.context)
                self.branch = self.shown.run_branch
            try:
                service = Service(
                    self.policy, self.context, plan, self.hooks, self.resolved(plan), self.proxied(plan), self.shown
                )
            except BaseException:
                if self.branch is not None:
                    self.branch.drop()
                raise
            try:
                return self.once(plan, features, service)
            except SpawnError as error:
                if not service.forget_killable(error):
                    raise
        raise AssertionError("the second launch does not ask for what the first was refused")

    def resolved(self, plan: Plan) -> dict[str, tuple[str, ...]]:
        """Return the addresses of the policy's host names; they are looked up once, so all see the same."""
        if self.names is None:
            self.names = {}
            if plan.filter.served_network:
                from sandlock_notif.handlers.network import resolve_names  # lazy: waits for DNS

                self.names = resolve_names(self.policy)
        return self.names

    def proxied(self, plan: Plan) -> Web | None:
        """Return the HTTP proxy of this launch, or None; made once."""
        policy = self.policy
        if self.web is None and plan.filter.served_network and (
            policy.http_allow or policy.http_deny or policy.http_auth
        ):  # fmt: skip
            from sandlock_runtime.web import Web  # lazy: TLS costs many launches to import

            self.web = Web(policy, self.context.env, self.resolved(plan))
        return self.web

    def once(self, plan: Plan, features: HostFeatures, service: Service | None) -> Life:
        """Start the child, or leave nothing behind."""
        if plan.writable_mounts is not None or plan.view is not None or unheld(plan):
            plan = as_passed(plan, self.policy, [*self.streams.child, *self.keep])
        request = _request(self.program, plan, parts_of(plan))
        request.stdio = self.streams.child
        request.keep = self.keep
        request.park = self.park
        request.flags |= TERMINAL if self.streams.terminal else 0
        if service is not None:
            service.prepare(request)
        scratch = name_scratch(self.context.env.get("TMPDIR") or "/tmp") if plan.private_tmp else ""  # noqa: S108  # the name is random, the mode 0700
        rulesets: list[int] = []
        spawned: Spawned | None = None
        try:
            if scratch:
                make_scratch(scratch)
                if service is not None:
                    service.writes_below(scratch)
            self.confine(request, plan, features, scratch, rulesets, service)
            spawned = start(request)
            life = Life(spawned, self.streams, self.program, plan, scratch, self.started, service, self.branch)
            if service is not None:
                service.begin(spawned, request.ruleset)
                service.watch(life.kill)
                if not self.park:
                    life.go()
        except BaseException:
            if spawned is not None:
                spawned.guard.close()
            if service is not None:
                service.finish()
            if scratch:
                remove_scratch(scratch)
            if self.branch is not None:
                self.branch.drop()
            raise
        else:
            return life
        finally:
            if self.shown is not None:
                self.shown.release()
            close_all(rulesets)

    def confine(
        self,
        request: SpawnRequest,
        plan: Plan,
        features: HostFeatures,
        scratch: str,
        rulesets: list[int],
        service: Service | None,
    ) -> None:
        """Put environment, mounts and rulesets into the request; each ruleset that is made is added to `rulesets`."""
        parts = parts_of(plan)
        request.env = parts.env
        path_rules = parts.rules
        writable = plan.writable_mounts
        if writable:
            writable = tuple([path for path in writable if path not in parts.optional or os.path.exists(path)])
        view = plan.view
        shows = view or plan.served_view
        if scratch and shows is not None and shows.root is not None:
            request.env = encode_env(scratch_env(plan.env, _INNER_TMP))
        elif scratch:
            request.env = encode_env(scratch_env(plan.env, scratch))
            path_rules = parts.rules.with_rule(os.fsencode(scratch), plan.handled_fs & ~NEVER)
            if writable is not None:
                writable = (*writable, scratch)
        if writable is not None:
            request.writable = [os.fsencode(path) for path in writable]
        if plan.devices is not None:
            from sandlock_runtime.devices import openable  # lazy: for kernels whose Landlock is too old

            request.devices = [os.fsencode(path) for path in openable(plan)]
        request.inner_ids = plan.inner_ids
        if plan.inner_ids is not None or (not features.privileged and (writable is not None or view is not None)):
            request.id_map = (self.context.uid, self.context.gid)
        if self.shown is not None:
            request.flags |= OWN_MEMORY  # the first exec may be made for the child, in memory that is its own
            path_rules = self.shown.confine(request, plan, path_rules, scratch)
        if view is not None:
            from sandlock_runtime.generated import Generated  # lazy: as below
            from sandlock_runtime.view import keeps_fds, show_view  # lazy: most runs see the machine as it is

            files = Generated(self.policy, view, self.resolved(plan), self.web)
            show_view(request, view, plan, scratch, files)
            if view.branch is not None:
                from sandlock_runtime.branching import RunBranch  # lazy: as above

                self.branch = RunBranch(self.policy, plan, self.context)
                if self.instead is not None:
                    self.instead.fill(self.branch.branch)
                self.branch.prepare(request)
            if request.network_namespace and service is None and self.instead is None:
                request.keeps_network = keeps_fds(plan, [*request.stdio, *request.keep])
        if plan.scoped & _SCOPE_SIGNAL and not request.pid_namespace:
            request.guard_ruleset = _guard_ruleset(plan)
            rulesets.append(request.guard_ruleset)
            request.scoped = True
        if plan.handled_fs | plan.handled_net | plan.scoped:
            request.ruleset = child_ruleset(plan, path_rules)
            rulesets.append(request.ruleset)


def _request(program: Program, plan: Plan, parts: Parts) -> SpawnRequest:
    request = SpawnRequest(program.argv, program.candidates)
    request.cwd = parts.cwd
    request.limits = plan.rlimits
    request.affinity = plan.affinity or ()
    request.filter = parts.filter
    request.flags = (NO_ASLR if plan.no_randomize_memory else 0) | (NO_THP if plan.no_huge_pages else 0)
    return request


def _guard_ruleset(plan: Plan) -> int:
    """Return the ruleset of the domain around guard and child: signals stay in it, and nothing else is decided by it.

    But for one thing: where any layer handles files, a layer that does not handle REFER forbids every link and rename
    into another directory (landlock(7)), so this one handles it, and grants it everywhere; the child's decides.
    """
    refer = plan.handled_fs & FS_REFER
    rules = _REFER_EVERYWHERE if refer else _NO_RULES
    return _above_streams(landlock.make_ruleset(refer, 0, _SCOPE_SIGNAL, rules))


def _above_streams(fd: int) -> int:
    """Return `fd`, moved above 2 where the caller lacks a stream: the child's own would be put in its place."""
    if fd > 2:
        return fd
    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def child_ruleset(plan: Plan, rules: PathRules) -> int:
    """Return the caller's fd of a Landlock ruleset with the plan's masks and ports, and `rules` for files."""
    try:
        ruleset = landlock.make_ruleset(plan.handled_fs, plan.handled_net, plan.scoped, rules)
    except SyscallError as error:
        if error.call == "open" and error.errno in (ENOENT, EACCES, ENOTDIR, ELOOP, ENAMETOOLONG):
            from sandlock_runtime.failure import granted_by, missing_path  # lazy: good launches never need it

            raise missing_path(error, granted_by(plan, error.detail)) from error
        raise
    ruleset = _above_streams(ruleset)
    try:
        for port, access in plan.port_rules:
            landlock.add_port(ruleset, port, access)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset
