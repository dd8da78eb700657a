"""What a launch is to see of the machine, beyond what is read-only: filled into its memory for `_csrc/view.c`."""

from __future__ import annotations

from sandlock_sys._buffers import hold, readable, string, strings
from sandlock_sys._ffi import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_sys._ffi import CData
    from sandlock_sys.spawn_request import SpawnRequest

__all__ = ["MAX_OVERLAID", "fill_view", "place_of"]

MAX_OVERLAID = 1 << 20  # bytes of generated files together; the largest real one has some ten thousand
_MOUNT_NS, _PID_NS, _NET_NS, _KEEP_NET = 1 << 3, 1 << 7, 1 << 9, 1 << 10  # SL_SPAWN_*


def fill_view(memory: CData, request: SpawnRequest, held: list[object]) -> int:
    """Fill `memory`, a struct sl_spawn, and return its flags.

    Raises:
        ValueError: a NUL byte in a path, too many bytes of generated files, or a domain around the guard where it must
            reach the init of a pid namespace.

    """
    if request.pid_namespace and request.guard_ruleset >= 0:
        raise ValueError("with a pid namespace there is no guard_ruleset: the guard must reach the namespace's init")
    if request.root is not None:
        memory.root = string(request.root, held)
    if request.branch is not None:
        memory.branch, memory.branch_options = (string(text, held) for text in request.branch)
    if request.binds:
        binds = [(string(source, held), string(target, held), only) for source, target, only in request.binds]
        memory.n_binds = len(binds)
        memory.binds = hold(ffi.new("struct sl_bind[]", binds), held)
    if request.overlays:
        memory.n_overlays = len(request.overlays)
        memory.overlays, kept = _overlays_of(request)
        held.append(kept)
    if request.rules:
        memory.rules = strings([path for path, _ in request.rules], held)[0]
        memory.n_rules = len(request.rules)
        memory.rule_accesses = hold(ffi.new("uint64_t[]", [access for _, access in request.rules]), held)
    mounts = request.root is not None or request.branch is not None or request.binds or request.overlays
    if request.pid_namespace:
        network = _NET_NS | (_KEEP_NET if request.keeps_network else 0)
        return _MOUNT_NS | _PID_NS | (network if request.network_namespace else 0)
    return _MOUNT_NS if mounts else 0


_made: tuple[Sequence[tuple[bytes, bytes]], Mapping[bytes, int], tuple[CData, list[object]]] | None = None


def _overlays_of(request: SpawnRequest) -> tuple[CData, list[object]]:
    """Return the generated files as C takes them, and what keeps them; the last launch's, if they are the same."""
    global _made  # noqa: PLW0603  # launches in a row show the same, and thirty objects take as long to make as to mount
    last = _made
    if last is not None and last[0] == request.overlays and last[1] == request.live:
        return last[2]
    if sum([len(content) for _, content in request.overlays]) > MAX_OVERLAID:
        raise ValueError(f"the generated files have more than {MAX_OVERLAID} bytes together")
    kept: list[object] = []
    files = [
        (string(target, kept), hold(readable(content), kept), len(content), request.live.get(target, 0))
        for target, content in request.overlays
    ]
    made = hold(ffi.new("struct sl_overlay[]", files), kept), kept
    _made = (list(request.overlays), dict(request.live), made)
    return made


def place_of(request: SpawnRequest, step: str, index: int) -> bytes:
    """Return the path that a failed step was at, or b"" for none."""
    paths: Sequence[bytes] = ()
    if step == "root":
        paths = [request.root or b""]
    elif step == "branch" and request.branch is not None:
        paths = [request.branch[0]]
    elif step == "bind":
        paths = [source + b" at " + target for source, target, _ in request.binds]
    elif step == "overlay":
        paths = [target for target, _ in request.overlays]
    elif step == "rule":
        paths = [path for path, _ in request.rules]
    return paths[index] if index < len(paths) else b""
