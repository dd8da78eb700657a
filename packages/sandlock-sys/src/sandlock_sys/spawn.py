"""Launch a confined child and its guard: all between clone and exec is C, and the step that failed comes back.

    caller's thread ── clone ──► guard (session, subreaper, outer Landlock domain) ── clone ──► child ── execve

The child shares the caller's memory until it executes, so the cost does not grow with the caller's size; it has its
own fd table, signal handlers and credentials. It starts with default signal handlers, an empty signal mask, a session
of its own, no capability, stdio and the declared fds, and nothing else.
"""

from __future__ import annotations

from os import fsdecode

from sandlock_sys._buffers import NULL, Strings, hold, string, strings
from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib
from sandlock_sys.errors import SyscallError
from sandlock_sys.guard import GUARD_PATH, TAKEN, Guard, give_memory, guard_program, take_memory
from sandlock_sys.spawn_request import (
    HOST_CLOCK,
    LIVE_HOST,
    LIVE_LOAD,
    LIVE_STAT,
    NO_ASLR,
    NO_DEVICES,
    NO_THP,
    NULL_DEVICE,
    OWN_MEMORY,
    TERMINAL,
    SpawnRequest,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_sys._ffi import CData

__all__ = [
    "HOST_CLOCK",
    "LIVE_HOST",
    "LIVE_LOAD",
    "LIVE_STAT",
    "NO_ASLR",
    "NO_DEVICES",
    "NO_THP",
    "NULL_DEVICE",
    "OWN_MEMORY",
    "TERMINAL",
    "SpawnError",
    "SpawnRequest",
    "Spawned",
    "Strings",
    "spawn",
]

_PARK, _USER_NS, _MOUNT_NS, _UNSCOPED = 1 << 0, 1 << 2, 1 << 3, 1 << 6
_PARKED = 1  # SL_PHASE_PARKED
_GO, _END = 1, 2  # SL_VERDICT_*
_ALL_ONES = (1 << 64) - 1
_MAX_FILTER = 4096  # BPF_MAXINSNS, linux/bpf_common.h

# SL_STEP_* in _csrc/spawn.h, each with the system call that its errno came from.
_STEPS = (
    ("start", "clone"),
    ("guard", "prctl"),
    ("guard-landlock", "landlock_restrict_self"),
    ("clone", "clone"),
    ("guard-exec", "execve"),
    ("session", "setsid"),
    ("stdio", "dup3"),
    ("keep", "fcntl"),
    ("namespace", "unshare"),
    ("id-map", "write"),
    ("clock", "write"),
    ("branch", "mount"),
    ("mount", "mount_setattr"),
    ("hostname", "sethostname"),
    ("root", "pivot_root"),
    ("bind", "move_mount"),
    ("init", "execve"),
    ("proc", "fsmount"),
    ("overlay", "move_mount"),
    ("rule", "landlock_add_rule"),
    ("cwd", "chdir"),
    ("limit", "prlimit64"),
    ("affinity", "sched_setaffinity"),
    ("personality", "personality"),
    ("thp", "prctl"),
    ("capabilities", "capset"),
    ("no-new-privs", "prctl"),
    ("landlock", "landlock_restrict_self"),
    ("close", "close_range"),
    ("seccomp", "seccomp"),
    ("listener", "sendmsg"),
    ("exec", "execve"),
)


class SpawnError(SyscallError):
    """A step of the launch failed; nothing of the sandbox is left.

    Attributes:
        step: "namespace", "landlock", "seccomp", "exec", ...: the names in `_STEPS`, in the order in which they happen.
        index: which of several things the step was at (candidate, limit, writable path), from 0.

    """

    def __init__(self, step: str, call: str, errno: int, detail: str = "", index: int = 0) -> None:
        super().__init__(call, errno, detail)
        self.step = step
        self.index = index

    def __reduce__(self) -> tuple[type[SpawnError], tuple[str, str, int, str, int]]:  # type: ignore[override]  # more fields than the base
        return type(self), (self.step, self.call, self.errno, self.detail, self.index)


class Spawned:
    """A child that runs, or is parked, and its guard, which the caller now owns.

    Attributes:
        pid: the child's process id, for messages; signals go through the guard.
        guard: its `Guard`.
        listener: the number of the notification listener in the parked child's fd table, or -1.
        live: the same of the file that LIVE_HOST names.

    """

    def __init__(self, memory: CData, guard: Guard, request: SpawnRequest) -> None:
        self.pid: int = memory.child_pid
        self.guard = guard
        self.listener: int = memory.listener
        self.live: int = memory.live[LIVE_HOST - 1]
        self._request = request
        self._waits: bool = memory.phase == _PARKED

    @property
    def parked(self) -> bool:
        """Whether the child waits for `go()`."""
        return self._waits

    def go(self) -> None:
        """Let the parked child execute its program.

        Raises:
            SpawnError: the exec failed; the guard has been waited for.

        """
        memory = self._take()
        if memory is None:
            return
        lib.sl_spawn_go(memory, _GO)
        failure = _failure(memory, self._request)
        if failure is not None:
            self.guard.close()
            raise failure

    def abandon(self) -> None:
        """Kill a child that is still parked; its guard reports as usual."""
        memory = self._take()
        if memory is not None:
            lib.sl_spawn_go(memory, _END)

    def _take(self) -> CData | None:
        """Return the memory of the parked child, once; None when there is none, or its guard was waited for."""
        waits, self._waits = self._waits, False
        return self.guard.memory if waits else None


def spawn(request: SpawnRequest, by: Callable[[CData], int] = lib.sl_spawn) -> Spawned:
    """Launch the child; return when it has executed its program, or is parked.

    Arguments:
        request: what the child is to be.
        by: who calls clone(2): the calling thread, or a deputy (`Deputy.spawn`).

    Raises:
        SpawnError: a step failed, with its name and errno; nothing is left running.
        ValueError: a string has a NUL byte in it, `argv` or `candidates` is empty, a stdio fd would be overwritten
            before its turn, or the filter is no array of at most 4096 instructions.

    """
    held: list[object] = []
    memory = take_memory()
    if memory == NULL:
        raise SpawnError("start", "mmap", 12, "no memory for the launch")
    ends = ffi.new("int32_t[2]", [-1, -1])
    try:
        _fill(memory, request, held)
        if not request.network_namespace:
            _start(memory, request, ends, by)
            return Spawned(memory, Guard(ends, memory, held), request)
        from sandlock_sys.kept_network import hold_network, lend_network  # lazy: most launches show the host's

        lent = lend_network(memory, request, held)
        _start(memory, request, ends, by)
        guard = Guard(ends, memory, held)
        guard.network = hold_network(memory, guard.report_fileno(), request.id_map, lent)
        return Spawned(memory, guard, request)
    except BaseException:  # a KeyboardInterrupt too, which a signal that came meanwhile raises right after the launch
        if ends[0] == TAKEN:  # then the guard ends with its object, and frees the memory
            raise
        _close_end(ends, 1)
        if memory.guard_pidfd >= 0:
            Guard(ends, memory, held).close()
        else:
            _close_end(ends, 0)
            give_memory(memory)
        raise


def _start(memory: CData, request: SpawnRequest, ends: CData, by: Callable[[CData], int]) -> None:
    check("socketpair", lib.sl_control_pair(ends))
    memory.control = ends[1]
    result = by(memory)
    _close_end(ends, 1)
    if result < 0:
        raise SpawnError("start", "clone", -result)
    failure = _failure(memory, request)
    if failure is not None:
        raise failure


def _close_end(ends: CData, index: int) -> None:
    fd = ends[index]
    ends[index] = -1  # first: an interrupted close may leave an fd open, and must never close somebody else's
    if fd >= 0:
        lib.sl_close(fd)


def _fill(memory: CData, request: SpawnRequest, held: list[object]) -> None:
    if not request.argv or not request.candidates:
        raise ValueError("argv and candidates need at least one string each")
    memory.argv = strings(request.argv, held)
    memory.envp = strings(request.env, held)
    memory.candidates = strings(request.candidates, held)
    try:
        memory.guard_program = guard_program()
    except OSError as error:
        raise SpawnError("guard-exec", "open", error.errno or 0, str(error.filename or GUARD_PATH)) from error
    if request.cwd is not None:
        memory.cwd = string(request.cwd, held)
    flags = request.flags | (_PARK if request.park else 0) | (0 if request.scoped else _UNSCOPED)
    if request.flags & NO_THP:
        flags |= OWN_MEMORY
    memory.flags = flags | _fill_namespaces(memory, request, held)
    if any(fd <= 2 and fd != number for number, fd in enumerate(request.stdio) if fd != NULL_DEVICE):
        raise ValueError(f"stdio {request.stdio}: an fd that is not in its place must be above 2")
    memory.stdio = list(request.stdio)
    memory.relay = request.relay
    if request.keep or request.relay >= 0:
        keep = sorted({*request.keep, request.relay} - {-1, 0, 1, 2})
        memory.n_keep = len(keep)
        memory.keep = hold(ffi.new("int32_t[]", keep), held)
    if request.limits:
        memory.n_limits = len(request.limits)
        # RLIM_INFINITY is -1 in Python and all ones in the kernel.
        limits = [(resource, soft & _ALL_ONES, hard & _ALL_ONES) for resource, soft, hard in request.limits]
        memory.limits = hold(ffi.new("struct sl_limit[]", limits), held)
    if request.affinity:
        words = [0] * (max(request.affinity) // 64 + 1)
        for cpu in request.affinity:
            words[cpu // 64] |= 1 << cpu % 64
        memory.affinity_bytes = 8 * len(words)
        memory.affinity = hold(ffi.new("uint64_t[]", words), held)
    if len(request.filter) % 8 or len(request.filter) > 8 * _MAX_FILTER:
        raise ValueError(f"a filter of {len(request.filter)} bytes is no array of at most {_MAX_FILTER} instructions")
    if request.filter:
        memory.n_filter = len(request.filter) // 8
        memory.filter = hold(ffi.from_buffer("char[]", request.filter), held)
        memory.filter_flags = request.filter_flags
    memory.ruleset = request.ruleset
    memory.guard_ruleset = request.guard_ruleset


def _fill_namespaces(memory: CData, request: SpawnRequest, held: list[object]) -> int:
    """Fill in what is to be seen of the machine; return the flags for it."""
    flags = 0
    if request.writable is not None:
        flags |= _MOUNT_NS
        memory.writable = strings(request.writable, held)
        memory.devices = NULL if request.devices is None else strings(request.devices, held)
    view = request.binds or request.overlays or request.rules or request.branch is not None
    if request.pid_namespace or request.root is not None or view:
        from sandlock_sys.spawn_view import fill_view  # lazy: most launches change nothing but what is writable

        flags |= fill_view(memory, request, held)
    if request.hostname is not None:
        memory.hostname = string(request.hostname, held)
        memory.hostname_bytes = len(request.hostname)
    inner = request.inner_ids
    if request.id_map is not None and (flags & _MOUNT_NS or request.hostname is not None or inner is not None):
        flags |= _USER_NS
        shown = request.id_map if inner is None else inner
        memory.uid_map, memory.gid_map = [
            string(b"%d %d 1" % pair, held) for pair in zip(shown, request.id_map, strict=True)
        ]
    return flags


def _failure(memory: CData, request: SpawnRequest) -> SpawnError | None:
    """What stopped the launch, from the words that the guard and the child left in its memory."""
    if not memory.error:
        return None
    step, call = _STEPS[memory.step]
    index = memory.detail
    detail = ""
    if step == "exec":
        detail = fsdecode(request.candidates[index])
    elif step == "cwd":
        detail = fsdecode(request.cwd or b"")
    elif step == "mount":
        detail = fsdecode([*(request.writable or ()), *(request.devices or ()), b"", b""][index])
    elif step in ("branch", "root", "bind", "overlay", "rule"):
        from sandlock_sys.spawn_view import place_of  # loaded already: the request asked for it

        detail = fsdecode(place_of(request, step, index))
    elif step == "limit":
        resource, soft, hard = request.limits[index]
        detail = f"resource {resource}, {soft}..{hard}"
    elif step == "guard-exec":
        detail = GUARD_PATH
    return SpawnError(step, call, memory.error, detail, index)
